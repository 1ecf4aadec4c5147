"""The fields of the configuration that say where pairs come from and who loads them."""

import numpy as np
import pytest

from data_pipelines import loader
from data_pipelines.pairs import FilePair
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.training import run
from hkdnet_jax.training.config import default_config
from hkdnet_jax.training.config_check import check_values


def changed(**values):
    config = default_config()
    config.data.update(values)
    return config


@pytest.mark.parametrize(
    "values",
    [
        {"tfds": "msrs"},
        {"tfds": "msrs:train+pairs/camera_1:train[:90%]"},
        {"roots": "a,b"},
        {"threads": 3, "processes": 4, "cache_gib": 0.5},
        {"cache_gib": 0.0},
        {"roots": "a", "added_scenes": 8, "single": 0.5},
        {"tfds": "msrs", "added_scenes": 8},
    ],
)
def test_what_is_accepted(values):
    check_values(changed(**values))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"tfds": "msrs", "roots": "a"}, "config.data.roots=a names the pairs already"),
        ({"tfds": "msrs++llvip"}, r"must be NAME\[:SPLIT\]"),
        ({"tfds": ":train"}, r"must be NAME\[:SPLIT\]"),
        ({"threads": -1}, r"config\.data\.threads is -1: it must be at least 0"),
        ({"processes": -1}, r"config\.data\.processes is -1: it must be at least 0"),
        ({"processes": 257}, "it must be below 257"),
        ({"cache_gib": -0.5}, r"config\.data\.cache_gib is -0\.5"),
        ({"cache_gib": float("inf")}, "it must be a finite number"),
        ({"added_scenes": 8}, "there are no stored pairs to add scenes to"),
    ],
)
def test_what_is_refused(values, sentence):
    with pytest.raises(UserError, match=sentence):
        check_values(changed(**values))


def test_records_are_found_and_the_cache_is_shared_out(monkeypatch):
    asked = []
    found = [FilePair(f"msrs/{name}", "ir", "vis") for name in "abcdefgh"]

    def find(data_sets, folder):
        asked.append((data_sets, folder))
        return found

    rooms = []

    class Opened(loader.PairSource):
        def __init__(self, pairs, min_size, cache_bytes=loader.GIB):
            super().__init__(pairs, min_size, cache_bytes)
            rooms.append(cache_bytes)

    monkeypatch.setattr(run.records, "find_pairs", find)
    monkeypatch.setattr(run.loader, "PairSource", Opened)
    monkeypatch.setattr(FilePair, "size", lambda self: (200, 200))
    config = changed(tfds="msrs", tfds_dir="here", processes=4, cache_gib=2.0)
    train, val = run.open_sources(config)
    assert asked == [("msrs", "here")]
    assert sorted(train.names + val.names) == [pair.name for pair in found]
    assert rooms[0] == loader.GIB // 2


def test_a_run_loads_with_the_threads_and_processes_of_its_configuration(monkeypatch):
    asked = {}

    def batches(source, **options):
        asked.update(options)
        return iter([])

    monkeypatch.setattr(run.loader, "train_batches", batches)
    monkeypatch.setattr(run.sharding, "local_rows", lambda mesh, size: range(size))
    training = object.__new__(run.Run)
    training.config = changed(threads=3, processes=2)
    training.mesh, training.train_source = None, None
    training.batches()
    assert (asked["threads"], asked["processes"]) == (3, 2)


@pytest.mark.parametrize("name", ["data.single", "loss.frequency"])
def test_what_is_for_students_is_refused_elsewhere(name):
    config = default_config()
    config.kind = "teacher"
    config.update_from_flattened_dict({name: 0.5})
    with pytest.raises(UserError, match="for a student's run, and this is a teacher's"):
        check_values(config)


@pytest.mark.parametrize("gib", [0.0, 1.0])
def test_scenes_are_cached_as_told(gib):
    config = changed(cache_gib=gib, crop=32, val_crop=32, scenes=1)
    train, _ = run.open_sources(config)
    first, again = train[0]["ir"], train[0]["ir"]
    np.testing.assert_array_equal(first, again)
    assert np.shares_memory(first, again) == (gib > 0)
