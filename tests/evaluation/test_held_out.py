"""The held-out camera: its kernels and noise have the sizes that the module states."""

import numpy as np
import pytest
from command_fixtures import make_pair, write
from scipy import ndimage

from hkdnet_jax.common.pair_files import match_folders
from hkdnet_jax.evaluation import held_out
from hkdnet_jax.evaluation.pictures import degrade_picture, enlarge
from hkdnet_jax.model_files.model import Model


def spread(kernel, axis):
    """Variance along a direction (y, x), around the middle."""
    reach = len(kernel) // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.sum(kernel * (axis[0] * y + axis[1] * x) ** 2)


@pytest.mark.parametrize("radius", [0.3, 0.6, 1.4, 2.8])
def test_the_disc_is_round_and_has_its_radius(radius):
    kernel = held_out._disc(radius)
    assert kernel.sum() == pytest.approx(1)
    np.testing.assert_array_equal(kernel, kernel.T)
    np.testing.assert_array_equal(kernel, kernel[::-1])
    area = 1 / kernel.max()  # pixels, if one lies inside of it as a whole
    assert area == pytest.approx(max(1, np.pi * radius**2), rel=0.12)


@pytest.mark.parametrize("angle", [0.0, 0.5, 2.0])
def test_the_line_has_its_length_and_angle(angle):
    kernel = held_out._line(6.0, angle)
    assert kernel.sum() == pytest.approx(1)
    along = np.sin(angle), np.cos(angle)
    across = along[1], -along[0]
    # Sharing a point out to two pixels widens it by at most a sixth of a pixel squared.
    assert spread(kernel, along) == pytest.approx(6.0**2 / 12, abs=0.4)
    assert spread(kernel, across) < 0.3
    np.testing.assert_allclose(held_out._line(0.0, angle)[1, 1], 1)


def test_no_line_nor_disc_leaves_the_kernel():
    for length in np.linspace(0, held_out.SMEAR * 4, 50):
        held_out._line(length, length)
    for radius in np.linspace(0.1, 4, 50):
        edge = held_out._disc(radius)[0]
        assert edge.sum() < 0.35


def test_the_thermal_noise_is_as_stated():
    flat = np.full((200, 300), 120.0)
    drawn = [held_out._thermal(np.random.default_rng(i), flat) for i in range(20)]
    for taken in drawn:
        stuck = (np.abs(taken - 120) > 60).mean()
        assert stuck < 0.002
        columns = np.median(taken, axis=0) - 120
        assert columns.std() == pytest.approx(1.5, rel=0.2)
        assert np.abs(np.diff(columns)).mean() < 0.6  # a walk, not noise
        noise = (taken - np.median(taken, axis=0)).clip(-40, 40)
        assert 1.8 < noise.std() < 5.3
        peaked = np.mean(noise**4) / np.var(noise) ** 2
        assert peaked > 4.5  # 6 for Laplace's, 3 for Gauss's
    assert np.std([taken.std() for taken in drawn]) > 0.3


def test_the_visible_noise_grows_with_the_level():
    flat = np.repeat([[20.0], [220.0]], 40_000, axis=1)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        white = np.exp(np.random.default_rng(seed).uniform(*np.log((800, 8000))))
        taken = held_out._visible(rng, flat)
        for level, row in zip((20, 220), taken, strict=True):
            assert row.mean() == pytest.approx(level, abs=0.3)
            assert row.var() == pytest.approx(level * 255 / white + 1.5**2, rel=0.05)


def test_half_of_the_images_are_compressed():
    image = ndimage.gaussian_filter(np.random.default_rng(0).random((64, 64)), 1) * 255
    plain = np.rint(image).astype(np.uint8)
    stored = [held_out._stored(np.random.default_rng(i), image) for i in range(60)]
    same = [np.array_equal(plain, picture) for picture in stored]
    assert 20 <= sum(same) <= 40
    assert len({picture.tobytes() for picture in stored}) == 4  # three qualities


def test_a_pair_is_decided_by_its_seed():
    ir, vis = make_pair(height=48, width=60)
    low = held_out.held_out_pair(ir, vis, 3, seed=1)
    again = held_out.held_out_pair(ir, vis, 3, seed=1)
    other = held_out.held_out_pair(ir, vis, 3, seed=2)
    for image, same, different, source in zip(
        low, again, other, (ir, vis), strict=True
    ):
        assert image.shape == (16, 20) and image.dtype == np.uint8
        np.testing.assert_array_equal(image, same)
        assert np.any(image != different)
        clean = degrade_picture(source, 3).astype(float)
        difference = np.abs(image - clean)
        assert 1 < np.median(difference) < 40


def test_pictures_are_compared_with_the_clean_label(models, tmp_path):
    for number in range(2):
        for side, image in zip(("ir", "vis"), make_pair(number, 33, 34), strict=True):
            write(tmp_path / side / f"{number}.png", image)
    pairs, _ = match_folders(tmp_path / "ir", tmp_path / "vis")
    student, teacher = Model.load(models[2]), Model.load(models[1])
    found = list(held_out.measure_pairs({"own": student}, teacher, pairs))
    assert len(found) == 2
    ir, vis = (x[:32] for x in make_pair(1, 33, 34))
    label = teacher(ir, vis).astype(float)
    inputs = (
        [degrade_picture(x, 2) for x in (ir, vis)],
        held_out.held_out_pair(ir, vis, 2, seed=1),
    )
    for name, low in zip(held_out.INPUTS, inputs, strict=True):
        shown = {"own": student(*low), held_out.BICUBIC: enlarge(teacher(*low), 2)}
        assert found[1][name].keys() == shown.keys()
        for key, picture in shown.items():
            psnr = 10 * np.log10(255**2 / np.mean((picture - label) ** 2))
            assert found[1][name][key] == pytest.approx(psnr, abs=1e-3)
