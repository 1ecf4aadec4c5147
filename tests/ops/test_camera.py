"""The camera's degradation, part by part against SciPy and Pillow."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import fft, ndimage

from data_pipelines import scenes
from hkdnet_jax.common.arrays import degrade
from hkdnet_jax.ops import camera

KEY = jax.random.key(3)
camera_pair = jax.jit(camera.camera_pair, static_argnums=3)


@pytest.fixture(scope="module")
def pair():
    """A made pair, float32 [1, 96, 128, 1] each."""
    images = scenes.render(5, 1, 96, 128)
    return tuple(np.float32(x / 255)[None, ..., None] for x in images)


def flat(level: float, n: int = 8, side: int = 96) -> jax.Array:
    return jnp.full((n, side, side, 1), level, jnp.float32)


@pytest.mark.parametrize("sigma", [0.4, 1.5, 3.2])
def test_a_round_blur_is_scipys(pair, sigma):
    image = pair[1]
    sigmas, none = jnp.full((1, 2), sigma), jnp.zeros((1, 2))
    blurred = camera.blur_and_shift(image, sigmas, jnp.ones(1), none, 24)
    spectrum = ndimage.fourier_gaussian(
        np.fft.fft2(np.pad(image[0, ..., 0], 24, mode="reflect")), sigma
    )
    expected = np.fft.ifft2(spectrum).real[24:-24, 24:-24]
    np.testing.assert_allclose(blurred[0, ..., 0], expected, atol=1e-5)
    if sigma > 1:
        spatial = ndimage.gaussian_filter(image[0, ..., 0], sigma, mode="mirror")
        np.testing.assert_allclose(blurred[0, ..., 0], spatial, atol=2e-3)


def test_an_oblong_blur_has_its_axes_where_the_angle_says():
    point = np.zeros((2, 63, 63, 1), np.float32)
    point[:, 31, 31] = 1
    sigmas, angle = jnp.array([[4.0, 1.5]] * 2), jnp.array([0.0, np.pi / 6])
    blurred = camera.blur_and_shift(point, sigmas, angle, jnp.zeros((2, 2)), 30)
    y, x = np.mgrid[-31:32, -31:32]
    for image, turn in zip(blurred[..., 0], angle, strict=True):
        moments = np.array(
            [[np.sum(image * a * b) for a in (x, y)] for b in (x, y)], float
        )
        axis = np.array([np.cos(turn), np.sin(turn)])
        assert axis @ moments @ axis == pytest.approx(16.0, rel=1e-3)
        assert np.linalg.det(moments) == pytest.approx(16.0 * 2.25, rel=1e-3)


def test_a_shift_moves_down_and_right_by_parts_of_a_pixel():
    y, x = np.mgrid[:96, :128].astype(float)

    def spots(down, right):
        # Nothing of them is left at the borders, nor in what is reflected beyond.
        one = np.exp(-((y - 46 - down) ** 2 + (x - 60 - right) ** 2) / (2 * 4.0**2))
        two = np.exp(-((y - 50 - down) ** 2 + (x - 70 - right) ** 2) / (2 * 3.0**2))
        return one - 0.5 * two

    image = jnp.asarray(spots(0, 0)[None, ..., None], jnp.float32)
    shift = jnp.array([[1.25, -2.5]])
    moved = camera.blur_and_shift(image, jnp.zeros((1, 2)), jnp.zeros(1), shift, 24)
    np.testing.assert_allclose(moved[0, ..., 0], spots(1.25, -2.5), atol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(
    ("kernel", "filter_"),
    [
        ("area", Image.Resampling.BOX),
        ("bilinear", Image.Resampling.BILINEAR),
        ("bicubic", Image.Resampling.BICUBIC),
    ],
)
def test_reductions_are_pillows(pair, kernel, filter_, scale):
    image = pair[1][:, :96, :120]
    small = camera.reduce_by(jnp.asarray(image), scale, kernel)
    wide = Image.fromarray(image[0, ..., 0])  # mode F: not rounded
    expected = wide.resize((120 // scale, 96 // scale), filter_)
    np.testing.assert_allclose(small[0, ..., 0], np.asarray(expected), atol=1e-5)


def test_every_kernel_is_tested():
    assert camera.KERNELS == ("area", "bilinear", "bicubic")


def quantised(levels, quality):
    """JPEG's loss by SciPy's DCT in float64, of whole blocks."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = np.clip((camera._TABLE.astype(int) * percent + 50) // 100, 1, 255)
    out = np.zeros(levels.shape)
    for i, j in np.ndindex(levels.shape[0] // 8, levels.shape[1] // 8):
        block = slice(8 * i, 8 * i + 8), slice(8 * j, 8 * j + 8)
        spectrum = fft.dctn(levels[block] - 128.0, norm="ortho")
        kept = np.rint(spectrum / table) * table
        out[block] = fft.idctn(kept, norm="ortho") + 128.0
    return np.clip(np.rint(out), 0, 255)


@pytest.mark.parametrize("quality", [40, 49, 50, 75, 95])
def test_jpeg_is_the_standards_and_pillows(pair, quality):
    image = pair[1][:, :90, :125]  # no whole number of blocks
    ours = camera.jpeg(jnp.asarray(image), jnp.array([float(quality)]))
    ours = np.rint(255 * np.asarray(ours[0, ..., 0]))
    levels = np.rint(255 * image[0, ..., 0]).astype(np.uint8)
    whole = np.pad(levels, ((0, 6), (0, 3)), mode="edge").astype(float)
    exact = quantised(whole, quality)[:90, :125]
    # Of 8 bit levels, many coefficients lie exactly between two steps of the table, and
    # float32 rounds some of them the other way.
    differs = np.pad(np.abs(ours - exact), ((0, 6), (0, 3))).reshape(12, 8, 16, 8)
    assert np.mean(differs.max((1, 3)) > 0) < 0.1 and differs.max() <= 4
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    expected = np.asarray(Image.open(file)).astype(int)
    difference = np.pad(np.abs(ours - expected), ((0, 6), (0, 3)))
    # libjpeg's DCT is of whole numbers: now and then a coefficient is another one.
    blocks = difference.reshape(12, 8, 16, 8).max((1, 3))
    assert np.mean(blocks > 1) < 0.25 and blocks.max() <= 10
    # The compression changes far more than the two implementations differ by.
    assert np.abs(expected - levels).mean() > 3 * difference.mean()


def test_infrared_noise_has_the_stated_strength(monkeypatch):
    for name in ("STRIPES", "DEAD"):
        monkeypatch.setattr(camera, name, (0.0, 0.0))
    for name in ("GAIN", "OFFSET"):
        monkeypatch.setattr(camera, name, 0.0)
    monkeypatch.setattr(camera, "IR_NOISE", (5.0, 5.0))
    noisy = camera.infrared_sensor(KEY, flat(0.5))
    assert 255 * np.std(noisy) == pytest.approx(5.0, rel=0.02)
    assert 255 * np.mean(noisy) == pytest.approx(127.5, abs=0.1)


def test_infrared_rows_and_columns_have_offsets(monkeypatch):
    for name in ("IR_NOISE", "DEAD"):
        monkeypatch.setattr(camera, name, (0.0, 0.0))
    monkeypatch.setattr(camera, "STRIPES", (2.0, 2.0))
    image = 255 * np.asarray(camera.infrared_sensor(KEY, flat(0.5, n=32)))[..., 0]
    rows, columns = image.mean(2), image.mean(1)
    for offsets in (rows, columns):
        assert np.std(offsets, axis=1).mean() == pytest.approx(2.0, rel=0.1)
    # Nothing else: rows and columns explain the picture.
    rest = (
        image - rows[:, :, None] - columns[:, None] + image.mean((1, 2))[:, None, None]
    )
    np.testing.assert_allclose(rest, 0, atol=1e-3)


def test_dead_pixels_are_black_or_white(monkeypatch):
    for name in ("IR_NOISE", "STRIPES"):
        monkeypatch.setattr(camera, name, (0.0, 0.0))
    monkeypatch.setattr(camera, "DEAD", (0.01, 0.01))
    image = np.asarray(camera.infrared_sensor(KEY, flat(0.5)))
    black, white = np.mean(image == 0), np.mean(image == 1)
    assert black + white == pytest.approx(0.01, rel=0.15)
    assert min(black, white) > 0.003


@pytest.mark.parametrize("level", [0.1, 0.9])
def test_shot_noise_grows_with_the_root_of_the_level(level, monkeypatch):
    for name in ("GAIN", "OFFSET"):
        monkeypatch.setattr(camera, name, 0.0)
    monkeypatch.setattr(camera, "PHOTONS", (900.0, 900.0))
    monkeypatch.setattr(camera, "READ_NOISE", (0.0, 0.0))
    noisy = camera.visible_sensor(KEY, flat(level))
    assert np.std(noisy) == pytest.approx(np.sqrt(level / 900), rel=0.02)
    monkeypatch.setattr(camera, "READ_NOISE", (3.0, 3.0))
    noisy = camera.visible_sensor(KEY, flat(level))
    variance = level / 900 + (3 / 255) ** 2
    assert np.std(noisy) == pytest.approx(np.sqrt(variance), rel=0.02)


def test_the_key_decides_everything(pair):
    images = [jnp.repeat(x, 12, 0) for x in pair]
    first, again, other = (
        camera_pair(key, *images, 2) for key in (KEY, KEY, jax.random.key(4))
    )
    for a, b, c, clean in zip(first, again, other, images, strict=True):
        assert a.shape == (12, 48, 64, 1) and a.dtype == jnp.float32
        np.testing.assert_array_equal(a, b)
        assert np.mean(np.abs(a - c)) > 0.005
        np.testing.assert_allclose(255 * a, np.rint(255 * a), atol=1e-4)
        # Some pairs are only reduced; the others are all different, and recognisable.
        is_clean = np.all(a == degrade(clean, 2), axis=(1, 2, 3))
        assert 0 < is_clean.sum() < 8
        assert len({x.tobytes() for x in np.asarray(a)[~is_clean]}) == sum(~is_clean)
        assert np.abs(a - degrade(clean, 2)).mean() < 0.06


def test_both_images_of_a_pair_stay_clean_together(pair):
    images = [jnp.repeat(x, 12, 0) for x in pair]
    clean = [
        np.all(low == degrade(image, 2), axis=(1, 2, 3))
        for low, image in zip(camera_pair(KEY, *images, 2), images, strict=True)
    ]
    np.testing.assert_array_equal(*clean)


def test_a_size_that_is_not_divisible_is_refused():
    with pytest.raises(ValueError, match="not divisible by the scale 5"):
        camera.camera_pair(KEY, flat(0.5), flat(0.5), 5)


@pytest.mark.parametrize("scale", [3, 4])
def test_other_scales(pair, scale):
    images = [jnp.asarray(x[:, :96, :120]) for x in pair]
    for low in camera_pair(KEY, *images, scale):
        assert low.shape == (1, 96 // scale, 120 // scale, 1)
        assert low.min() >= 0 and low.max() <= 1
