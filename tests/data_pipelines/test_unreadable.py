"""Pairs that become unreadable while a run trains on them."""

import numpy as np
import pytest

from data_pipelines import loader, pairs, scenes
from data_pipelines.unreadable import Replacing
from hkdnet_jax.common.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Five pairs of files."""
    scenes.write_pairs(tmp_path, 0, 0, 5, 20, 20)
    return tmp_path


def _source(folder):
    """Without a cache, so that every visit reads the files."""
    found = pairs.find_pairs([str(folder)])
    return loader.PairSource(found, min_size=16, cache_bytes=0)


def _warnings(capsys):
    return capsys.readouterr().err.splitlines()


def _break(folder, number):
    """Truncates or removes a file of a pair."""
    file = folder / "vis" / f"scene_{number:04d}.png"
    if number % 2:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:60])


def test_pairs_that_can_be_read_are_those_of_the_source(folder, capsys):
    plain, replacing = _source(folder), Replacing(_source(folder), 2)
    assert len(replacing) == 5 and replacing.names == plain.names
    for index in range(5):
        np.testing.assert_array_equal(replacing[index]["ir"], plain[index]["ir"])
    assert not _warnings(capsys)


def test_the_next_readable_pair_stands_in_and_is_said_once(folder, capsys):
    source = Replacing(_source(folder), limit=2)
    for number in (1, 2):
        _break(folder, number)
    for _ in range(3):
        assert [source[i]["name"][-1] for i in range(5)] == ["0", "3", "3", "3", "4"]
    first, second = _warnings(capsys)
    assert "vis/scene_0001.png" in first and "the 1. of at most 2" in first
    assert "vis/scene_0002.png" in second and "the 2. of at most 2" in second
    # One that comes back is used again.
    scenes.write_pairs(folder, 0, 0, 5, 20, 20)
    assert [source[i]["name"][-1] for i in range(5)] == list("01234")


def test_the_last_pair_is_followed_by_the_first(folder):
    source = Replacing(_source(folder), 1)
    _break(folder, 4)
    assert source[4]["name"].endswith("0")


@pytest.mark.parametrize("limit", [0, 1, 100])
def test_more_than_the_limit_stop_the_run(folder, limit):
    source = Replacing(_source(folder), limit)
    for number in range(5 if limit == 100 else limit + 1):
        _break(folder, number)
    with pytest.raises(UserError, match="training pairs cannot be read") as caught:
        for index in range(5):
            source[index]
    assert "\n" not in str(caught.value)
    assert f"max_unreadable is {limit}" in str(caught.value)
    assert "vis/scene_000" in str(caught.value), "the last one is named"


def test_batches_go_on(folder, capsys):
    def batches(source):
        return loader.train_batches(
            source, crop=16, batch_size=5, samples_per_epoch=5, seed=0
        )

    before = next(batches(_source(folder)))
    source = Replacing(_source(folder), 1)
    _break(folder, 2)
    after = next(batches(source))
    changed = [
        not np.array_equal(a, b) for a, b in zip(before["ir"], after["ir"], strict=True)
    ]
    assert sum(changed) == 1 and len(_warnings(capsys)) == 1
