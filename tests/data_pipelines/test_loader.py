"""Batches: order, coverage, crops, shards and resume."""

import itertools
import json
import threading
from collections import Counter

import numpy as np
import pytest
from loader_fixtures import HEIGHT, WIDTH, Coded, corners, equal, samples, stream

from data_pipelines.loader import (
    PairSource,
    epoch_samples,
    train_batches,
    val_batches,
)
from data_pipelines.pairs import find_pairs
from data_pipelines.splits import split_pairs
from hkdnet_jax.common.errors import UserError

# --- training -----------------------------------------------------------------------


def test_shapes_and_the_same_window_in_both():
    for batch in stream(Coded(3), 5):
        assert set(batch) == {"ir", "vis"}
        assert batch["ir"].dtype == batch["vis"].dtype == np.uint8
        assert batch["ir"].shape == (4, 8, 8, 3)
        np.testing.assert_array_equal(batch["ir"], 255 - batch["vis"])
        for sample, (pair, top, left) in zip(batch["ir"], corners(batch), strict=True):
            rows, columns = np.indices((8, 8))
            assert (sample[..., 0] == pair).all()
            np.testing.assert_array_equal(sample[..., 1], top + rows)
            np.testing.assert_array_equal(sample[..., 2], left + columns)


@pytest.mark.parametrize(("height", "largest"), [(64, 32), (24, 24)])
def test_larger_windows_are_shrunk(height, largest):
    """A ramp whose steps tell how large the window was; vis is its complement."""

    class Ramp(Coded):
        def __getitem__(self, index: int) -> dict:
            ir = np.tile(np.arange(64, dtype=np.uint8) * 3, (height, 1))[..., None]
            return {"name": "ramp", "ir": ir, "vis": 255 - ir}

    sides = []
    for batch in stream(Ramp(1), 40, crop=16, max_shrink=2.0):
        assert batch["ir"].shape == batch["vis"].shape == (4, 16, 16, 1)
        assert batch["ir"].dtype == np.uint8
        total = batch["ir"].astype(int) + batch["vis"]
        assert np.abs(total - 255).max() <= 1
        rise = batch["ir"][:, 8, 12, 0].astype(int) - batch["ir"][:, 8, 4, 0]
        sides += list(rise / 8 / 3 * 16)
    assert min(sides) >= 15.5 and max(sides) <= largest + 0.5
    assert min(sides) < 18 and max(sides) > largest - 3
    wanted = (16 + largest) / 2
    assert abs(np.mean(sides) - wanted) < 1.2


def test_pure_function_of_the_seed():
    one, two = stream(Coded(9), 20, seed=1), stream(Coded(9), 20, seed=1)
    assert all(equal(a, b) for a, b in zip(one, two, strict=True))
    other = stream(Coded(9), 20, seed=2)
    assert not any(equal(a, b) for a, b in zip(one, other, strict=True))


def test_neighbouring_seeds_are_not_shifted_copies():
    one = [pair for pair, *_ in samples(Coded(16), 12, seed=1)]
    two = [pair for pair, *_ in samples(Coded(16), 12, seed=2)]
    passes = {tuple(one[i : i + 16]) for i in range(0, 48, 16)}
    assert not passes & {tuple(two[i : i + 16]) for i in range(0, 48, 16)}


def test_epoch_is_one_pass_when_pairs_abound():
    taken = [pair for pair, *_ in samples(Coded(12), 9, samples_per_epoch=5)]
    epochs = [taken[i : i + 12] for i in range(0, 36, 12)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert all(epoch != sorted(epoch) for epoch in epochs)
    assert epoch_samples(12, 5) == 12


def test_epoch_repeats_pairs_up_to_its_samples():
    assert epoch_samples(7, 24) == 24
    taken = samples(Coded(7), 18, samples_per_epoch=24)  # three epochs
    extra = []
    for i in range(3):
        counts = Counter(pair for pair, *_ in taken[24 * i : 24 * (i + 1)])
        assert set(counts) == set(range(7)) and set(counts.values()) == {3, 4}
        extra.append({pair for pair, n in counts.items() if n == 4})
    # The remainder is drawn afresh; no pair is favoured for the whole run.
    assert not extra[0] == extra[1] == extra[2]
    # Visits are spread: each pass is complete before the next begins.
    assert sorted(pair for pair, *_ in taken[:7]) == list(range(7))


def test_repeat_visits_see_other_crops():
    visits: dict[int, list] = {}
    for pair, top, left in samples(Coded(2), 30, samples_per_epoch=10):
        visits.setdefault(pair, []).append((top, left))
    for seen in visits.values():
        assert len(seen) == 60
        # 5 x 7 positions: 60 draws hit 29 of them on average.
        assert len(set(seen)) > 20
        assert {top for top, _ in seen} == set(range(HEIGHT - 8 + 1))
        assert {left for _, left in seen} == set(range(WIDTH - 8 + 1))


@pytest.mark.parametrize("height, width", [(8, 8), (8, 9), (9, 8)])
def test_images_of_exactly_the_crop_size(height, width):
    source = Coded(3, height, width)
    taken = samples(source, 10)
    assert {top for _, top, _ in taken} == set(range(height - 7))
    assert {left for _, _, left in taken} == set(range(width - 7))
    for batch in val_batches(source, crop=8, batch_size=2):
        assert batch["ir"].shape == (2, 8, 8, 3)


def test_one_pair():
    taken = samples(Coded(1), 6, samples_per_epoch=5)
    assert {pair for pair, *_ in taken} == {0} and len(set(taken)) > 5


@pytest.mark.parametrize("rows", [[0, 1, 2], [3, 4, 5], [5], [1, 4]])
def test_rows_of_the_global_batch(rows):
    options = {"batch_size": 6, "samples_per_epoch": 20}  # batches straddle epochs
    whole = stream(Coded(11), 12, **options)
    part = stream(Coded(11), 12, rows=rows, **options)
    for batch, own in zip(whole, part, strict=True):
        assert corners(own) == [corners(batch)[row] for row in rows]


def test_only_the_rows_are_read():
    source = Coded(40)
    stream(source, 2, batch_size=20, rows=[3])
    assert source.visits.total() < 20  # two, and those made ahead


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(UserError, match=f"seed is {seed}"):
        stream(Coded(3), 1, seed=seed)
    assert stream(Coded(3), 1, seed=2**32 - 1)


def test_image_smaller_than_the_crop_is_named():
    with pytest.raises(UserError, match=r"p\d is 14x12, smaller than the crop of 13"):
        stream(Coded(3), 1, crop=13)


@pytest.mark.parametrize("taken", [0, 1, 5, 13])
@pytest.mark.parametrize("rows", [None, [2, 3]])
def test_resumes_with_exactly_the_next_batch(taken, rows):
    def start():
        return train_batches(
            Coded(5),
            crop=8,
            batch_size=4,
            samples_per_epoch=9,  # batches straddle epochs
            seed=3,
            rows=rows,
        )

    unbroken = start()
    for _ in range(taken):
        next(unbroken)
    # As a checkpoint stores it; threads have run ahead of it by now.
    text = json.dumps(unbroken.get_state())
    assert json.loads(text) == {"next_index": taken}, "whatever the rows"
    rest = [next(unbroken) for _ in range(8)]
    resumed = start()
    resumed.set_state(json.loads(text))
    assert all(equal(next(resumed), batch) for batch in rest)
    # Also backwards, on an iterator that is already under way.
    unbroken.set_state(json.loads(text))
    assert all(equal(next(unbroken), batch) for batch in rest)


def test_resumes_on_files(root):
    pairs = find_pairs([root])
    options = {"crop": 8, "batch_size": 6, "samples_per_epoch": 40, "seed": 1}
    unbroken = train_batches(PairSource(pairs, 8), **options)
    for _ in range(5):
        next(unbroken)
    resumed = train_batches(PairSource(pairs, 8, cache_bytes=0), **options)
    resumed.set_state(unbroken.get_state())
    for _ in range(10):
        assert equal(next(resumed), next(unbroken))


def test_batches_are_made_ahead_in_other_threads():
    ahead = threading.Event()
    workers = set()

    class Watched(Coded):
        def __getitem__(self, index):
            workers.add(threading.current_thread())
            if self.visits.total() >= 4:  # beyond the one batch that is asked for
                ahead.set()
            return super().__getitem__(index)

    iterator = train_batches(
        Watched(3), crop=8, batch_size=4, samples_per_epoch=1, seed=0
    )
    next(iterator)
    assert ahead.wait(timeout=20)
    assert threading.main_thread() not in workers
    iterator.close()


# --- validation ---------------------------------------------------------------------


def test_validation_visits_each_pair_once_in_order_at_the_centre():
    batches = list(val_batches(Coded(10, 12, 15), crop=8, batch_size=4))
    assert len(batches) == 3
    taken = [s for batch in batches for s in corners(batch)]
    masks = np.concatenate([batch["mask"] for batch in batches])
    assert taken[:10] == [(i, 2, 3) for i in range(10)]
    assert [pair for pair, *_ in taken[10:]] == [0, 1]
    assert masks.dtype == np.float32
    np.testing.assert_array_equal(masks, [1] * 10 + [0] * 2)
    for batch in batches:
        assert batch["ir"].shape == batch["vis"].shape == (4, 8, 8, 3)
        assert batch["ir"].dtype == np.uint8
        np.testing.assert_array_equal(batch["ir"], 255 - batch["vis"])


def test_validation_can_be_iterated_again():
    batches = val_batches(Coded(5), crop=8, batch_size=2)
    one, two = list(batches), list(batches)
    assert len(one) == 3
    assert all(equal(a, b) for a, b in zip(one, two, strict=True))


def test_validation_batch_larger_than_the_set():
    (batch,) = val_batches(Coded(3), crop=8, batch_size=8)
    assert [pair for pair, *_ in corners(batch)] == [0, 1, 2, 0, 1, 2, 0, 1]
    np.testing.assert_array_equal(batch["mask"], [1, 1, 1, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("count", [1, 5, 7, 8, 9])
def test_validation_rows(count):
    seen = Counter()
    for rows in ([0, 1, 2], [3, 7], [4, 5, 6]):
        share = list(val_batches(Coded(count), crop=8, batch_size=8, rows=rows))
        assert len(share) == (2 if count > 8 else 1)
        for number, batch in enumerate(share):
            pairs = [pair for pair, *_ in corners(batch)]
            assert pairs == [(8 * number + row) % count for row in rows]
            seen.update(p for p, m in zip(pairs, batch["mask"], strict=True) if m)
    assert seen == {i: 1 for i in range(count)}


# --- real data ----------------------------------------------------------------------


def test_real_pairs(real_data):
    pairs = find_pairs([real_data / "roadscene"])
    assert len(pairs) == 221
    source = PairSource(pairs, min_size=128)
    masks = [b["mask"] for b in val_batches(source, crop=128, batch_size=64)]
    assert len(masks) == 4 and np.sum(masks) == 221
    iterator = train_batches(
        source, crop=128, batch_size=16, samples_per_epoch=12000, seed=0
    )
    batches = list(itertools.islice(iterator, 8))
    resumed = train_batches(
        source, crop=128, batch_size=16, samples_per_epoch=12000, seed=0
    )
    resumed.set_state({"next_index": 7})
    assert equal(next(resumed), batches[7])
    means = np.stack([b["ir"] for b in batches]).mean(axis=(2, 3, 4))
    assert len(np.unique(means)) == 128
    # The smallest image is 161 rows high: the list must name it and say what to do.
    with pytest.raises(UserError, match=r"cannot be used.*data\.crop.*FLIR_"):
        PairSource(pairs, min_size=300)
    train, val = split_pairs(pairs, "", "", 0.1)
    assert len(PairSource(train, 126)) + len(PairSource(val, 126)) == 221
