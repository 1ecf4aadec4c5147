"""Yin's coupled sparse coding: OMP and overlaps by loops, and what the rule does."""

import functools

import numpy as np
import pytest
from command_fixtures import make_pair, write
from scipy import ndimage

from hkdnet_jax.baselines import dictionaries, registry, yin
from hkdnet_jax.baselines.simple import bicubic
from hkdnet_jax.baselines.weights import Weights
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format


def random_atoms(count, size, seed=0):
    atoms = np.random.default_rng(seed).normal(size=(count, size))
    return (atoms / np.linalg.norm(atoms, axis=1, keepdims=True)).astype(np.float32)


def shipped():
    _, arrays = file_format.load_model(yin._SHIPPED)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def image(seed=0, height=17, width=21):
    noise = np.random.default_rng(seed).uniform(0, 1, (height, width))
    smooth = ndimage.gaussian_filter(noise, 1.2)
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


def pursue(atoms, signal, used, enough):
    """OMP of one signal, as the textbooks have it."""
    chosen, rest, values = [], signal.astype(np.float64), []
    while len(chosen) < used and np.mean(rest**2) > enough**2:
        chosen.append(int(np.abs(atoms @ rest).argmax()))
        values = np.linalg.lstsq(atoms[chosen].T, signal, rcond=None)[0]
        rest = signal - values @ atoms[chosen]
    code = np.zeros(len(atoms))
    code[chosen] = values
    return code


def test_codes_are_those_of_orthogonal_matching_pursuit(monkeypatch):
    atoms = random_atoms(40, 16).astype(np.float64)
    signals = np.random.default_rng(1).normal(0, 0.1, (30, 16))
    signals[3] = 0
    signals[4] = 0.3 * atoms[7]  # done after one atom
    monkeypatch.setattr(yin, "_ROWS", 7)
    got = yin.code(atoms, signals, used=5, enough=0.03)
    want = np.array([pursue(atoms, x, 5, 0.03) for x in signals])
    np.testing.assert_allclose(got, want, atol=2e-4)
    counts = (got != 0).sum(1)
    assert counts.max() == 5 and counts[3] == 0 and counts[4] == 1


def test_overlaps_are_averaged():
    rng = np.random.default_rng(0)
    for scale in (1, 3):
        side = yin.MIDDLE * scale
        squares = rng.normal(size=(6 * 8, side**2)).astype(np.float32)
        total, count = np.zeros((2, 9 * scale, 11 * scale))
        for i, square in enumerate(squares):
            at = np.s_[scale * (i // 8) :, scale * (i % 8) :]
            total[at][:side, :side] += square.reshape(side, side)
            count[at][:side, :side] += 1
        got = yin._average(squares, (9, 11), scale)
        np.testing.assert_allclose(got, total / count, atol=1e-5)


def test_patches_and_middles_fit_each_other():
    high = image()
    found = yin.patches(high)
    assert found.shape == (14 * 18, 64)
    middle = yin.middles(found)
    np.testing.assert_array_equal(middle[18 + 2].reshape(4, 4), high[1:5, 2:6])
    # Averaging what was cut out gives the image back.
    np.testing.assert_allclose(yin._average(middle, high.shape, 1), high, atol=1e-6)


def test_the_source_with_more_detail_wins_and_levels_are_averaged():
    found, vis = shipped(), image(2)
    flat = np.full_like(vis, 0.25)
    for scale in (1, 2):
        alone = yin.fuse(vis, vis, scale, found)
        low, _ = yin.split(vis)
        detail = alone - bicubic(low, scale)
        want = bicubic((low + 0.25) / 2, scale) + detail
        np.testing.assert_allclose(yin.fuse(flat, vis, scale, found), want, atol=1e-5)
        assert detail.std() > 0.02
    # Equal sources come back, but for what the atoms leave out.
    assert np.std(yin.fuse(vis, vis, 1, found) - vis) < 0.02 < vis.std() / 5


def test_learning_finds_what_the_patches_are_made_of():
    rng = np.random.default_rng(0)
    true, large = random_atoms(12, 64), rng.normal(size=(12, 16)).astype(np.float32)
    codes = np.zeros((1500, 12), np.float32)
    for row in codes:
        row[rng.permutation(12)[:2]] = rng.normal(size=2)
    learnt = dictionaries.learn({2: (codes @ true, codes @ large)}, rounds=12, atoms=16)
    assert learnt["small"].shape == (16, 64) and learnt["x2"].shape == (16, 16)
    np.testing.assert_allclose(np.linalg.norm(learnt["small"], axis=1), 1, atol=1e-5)
    rest = codes @ large - yin.code(learnt["small"], codes @ true) @ learnt["x2"]
    assert rest.std() < 0.05 * (codes @ large).std()
    other = random_atoms(16, 64, 5)
    missed = codes @ true - yin.code(other, codes @ true) @ other
    assert missed.std() > 0.5 * (codes @ true).std()


def test_the_command_writes_what_compare_reads(tmp_path, monkeypatch, capfd):
    for seed, stem in enumerate("abc"):
        for kind, picture in zip(("ir", "vis"), make_pair(seed, 130, 140), strict=True):
            write(tmp_path / "roots" / kind / f"{stem}.png", picture)
    for name, fewer in (("learn", {"rounds": 1}), ("sample", {"wanted": 600})):
        quick = functools.partial(getattr(dictionaries, name), **fewer)
        monkeypatch.setattr(dictionaries, name, quick)
    args = ["--roots", str(tmp_path / "roots"), "--out", str(tmp_path / "yin")]
    assert dictionaries.main(args) == 0
    assert "from 3 pairs" in capfd.readouterr().out
    config, arrays = file_format.load_model(tmp_path / "yin")
    assert config == {"kind": "yin"}
    assert {name: array.shape for name, array in arrays.items()} == yin.shapes()
    own = registry.find("yin", Weights(tmp_path))(image(), image(1), 2)
    packaged = registry.find("yin", Weights())(image(), image(1), 2)
    assert own.shape == packaged.shape == (34, 42) and (own != packaged).any()
    assert dictionaries.main(["--roots", str(tmp_path), "--out", "x"]) == 1


def test_what_belongs_to_a_small_patch():
    picture = np.arange(24 * 24, dtype=np.float32).reshape(24, 24)
    got = dictionaries._middles(picture, np.array([0, 9 + 3]), 12, 2)
    np.testing.assert_array_equal(got[0].reshape(8, 8), picture[:8, :8])
    np.testing.assert_array_equal(got[1].reshape(8, 8), picture[2:10, 6:14])


def test_the_shipped_dictionaries():
    found = shipped()
    assert {name: array.shape for name, array in found.items()} == yin.shapes()
    np.testing.assert_allclose(np.linalg.norm(found["small"], axis=1), 1, atol=1e-3)
    assert (yin._SHIPPED / "model.safetensors").stat().st_size < 300_000


def test_mistakes(tmp_path):
    for size, scale in (((7, 20), 2), ((20, 20), 5)):
        with pytest.raises(UserError, match=f"cannot enlarge 20x{size[0]} pixels"):
            yin.fuse(image(0, *size), image(1, *size), scale, shipped())
    file_format.save_model(tmp_path / "yin", {"kind": "li"}, {"a": np.zeros(1)})
    with pytest.raises(UserError, match="holds no dictionaries of yin: write them"):
        yin.load(Weights(tmp_path))
