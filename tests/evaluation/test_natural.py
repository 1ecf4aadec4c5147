"""Statistics of fused pictures: each feature, the model, what the metric sees."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import signal, stats

from data_pipelines import scenes
from hkdnet_jax.evaluation import natural


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A made visible scene of 2x3 squares."""
    root = tmp_path_factory.mktemp("natural")
    scenes.write_pairs(root, 0, 0, 1, 200, 300)
    return np.asarray(Image.open(next((root / "vis").glob("*.png"))).convert("L"))


@pytest.mark.parametrize("shape", [0.6, 1.0, 2.0, 4.0])
def test_shapes_of_samples_of_known_shape(shape):
    rng = np.random.default_rng(0)
    x = stats.gennorm.rvs(shape, scale=0.3, size=(2, 60_000), random_state=rng)
    found, deviation = natural._gaussian(x)
    np.testing.assert_allclose(found, shape, rtol=0.06)
    np.testing.assert_allclose(deviation, x.std(axis=1), rtol=0.01)


def test_an_asymmetric_gaussian():
    rng = np.random.default_rng(1)
    left, right = np.abs(rng.normal(0, [[1.0], [3.0]], (2, 90_000)))
    # As many on each side as the density wants, which is continuous at 0.
    x = np.concatenate([-left[:30_000], right])[None]
    shape, mean, low, high = natural._asymmetric(x)
    np.testing.assert_allclose([shape[0], low[0], high[0]], [2, 1, 3], rtol=0.05)
    assert mean[0] == pytest.approx(x.mean(), rel=0.05)


def test_normalised_luminance(picture):
    image = picture[:40, :50] / 255
    at = np.arange(-3, 4)
    window = np.exp(-0.5 * (at[:, None] ** 2 + at**2) / (7 / 6) ** 2)
    window /= window.sum()
    padded = np.pad(image, 3, mode="edge")
    mean = signal.correlate2d(padded, window, "valid")
    square = signal.correlate2d(padded**2, window, "valid")
    want = (image - mean) / (np.sqrt(np.abs(square - mean**2)) + 1 / 255)
    np.testing.assert_allclose(natural.normalised(image), want, atol=1e-6)


def test_bands_see_their_orientation_and_octave():
    y, x = np.mgrid[:96, :96]
    energies = {}
    for name, wave in {
        "fine": np.sin(2 * np.pi * 24 * x / 96),
        "diagonal": np.sin(2 * np.pi * (17 * x + 17 * y) / 96),
        "coarse": np.sin(2 * np.pi * 4 * x / 96),
    }.items():
        energies[name] = np.array([np.mean(b**2) for b in natural.bands(wave)])
    assert np.argmax(energies["fine"]) == 0
    assert set(np.argsort(energies["diagonal"])[-2:]) == {1, 2}  # 30 and 60 degrees
    assert energies["coarse"].max() < 1e-9
    # The bands of all orientations hold a frequency as a whole.
    assert energies["fine"].sum() == pytest.approx(0.5, rel=1e-6)


def test_differences_of_logarithms():
    logs = np.random.default_rng(2).normal(size=(5, 6))
    got = natural._differences(logs)
    i, j = 2, 3

    def at(down, right):
        return logs[i + down, j + right]

    wants = [at(0, 1), at(1, 0), at(1, 1), at(1, -1)]
    wants = [want - at(0, 0) for want in wants]
    wants.append(at(-1, 0) + at(1, 0) - at(0, -1) - at(0, 1))
    wants.append(at(0, 0) + at(1, 1) - at(0, 1) - at(1, 0))
    wants.append(at(-1, -1) + at(1, 1) - at(-1, 1) - at(1, -1))
    np.testing.assert_allclose([d[i, j] for d in got], wants)


def test_the_features_of_squares(picture):
    found = natural.features(picture)
    assert found.shape == (6, 3 * natural.FEATURES)
    # Stretched levels are the same picture, but for their rounding.
    cut = picture[:193, :290]
    low, high = int(cut.min()), int(cut.max())
    wide = np.round((cut.astype(float) - low) * 255 / (high - low)).astype(np.uint8)
    np.testing.assert_allclose(natural.features(wide), natural.features(cut), atol=0.8)
    # In the negative, both halves have changed places.
    differences = natural.features(255 - cut)[:, 2:4], natural.features(cut)[:, 2:4]
    np.testing.assert_allclose(differences[0], -differences[1], atol=1e-9)


def test_the_distance_is_mahalanobis(picture):
    rng = np.random.default_rng(3)
    found = natural.features(picture)
    root = rng.normal(size=(138, 138)) * 0.1 + np.eye(138)
    model = natural.Gaussian(found.mean(0) + rng.normal(size=138), root @ root.T)
    both = (model.covariance + np.cov(found.T)) / 2
    away = found.mean(0) - model.mean
    want = np.sqrt(away @ np.linalg.solve(both, away))
    assert natural.naturalness(picture, model) == pytest.approx(want, rel=1e-6)


def test_what_has_no_value():
    assert np.isnan(natural.naturalness(np.full((200, 200), 7, np.uint8)))
    noise = np.random.default_rng(0).integers(0, 256, (95, 300), np.uint8)
    assert np.isnan(natural.naturalness(noise))


def test_our_model_is_a_gaussian_and_survives_its_file(tmp_path):
    model = natural.load()
    assert model.mean.shape == (138,)
    assert np.linalg.eigvalsh(model.covariance).min() > -1e-6
    natural.save(model, tmp_path / "model.npz")
    assert natural.FILE.stat().st_size < 60_000
    with np.load(tmp_path / "model.npz") as arrays, np.load(natural.FILE) as ours:
        assert all(np.array_equal(arrays[name], ours[name]) for name in ours)


def test_distortions_are_farther(picture, real_data):
    """On a real pair that the model was not made of, and that lost its quality."""
    folder = real_data / "hkdnet_demo" / "hr"
    file = sorted((folder / "vis").glob("*.png"))[0]
    ir, vis = (
        np.asarray(Image.open(folder / kind / file.name).convert("L"), float)
        for kind in ("ir", "vis")
    )
    clean = ((ir + vis) / 2).astype(np.uint8)
    noise = clean + np.random.default_rng(0).normal(0, 20, clean.shape)
    blurred = Image.fromarray(clean).filter(ImageFilter.GaussianBlur(2.5))
    best = natural.naturalness(clean)
    for worse in (np.clip(noise, 0, 255).astype(np.uint8), np.asarray(blurred)):
        assert natural.naturalness(worse) > 1.1 * best
