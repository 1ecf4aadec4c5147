"""The operations of the portable form, against NumPy, Pillow and the usual form."""

import dm_pix
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, signal, special

from hkdnet_jax.common.arrays import resize_bicubic
from hkdnet_jax.ops import portable


def images(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


def test_the_form_holds_inside_the_block_alone():
    assert not portable.active()
    with portable.form(True):
        assert portable.active()
        with portable.form(False):
            assert not portable.active()
        assert portable.active()
    with pytest.raises(ZeroDivisionError), portable.form(True):
        _ = 1 / 0
    assert not portable.active()


@pytest.mark.parametrize(("padding", "mode"), [(1, "same"), (0, "valid")])
def test_conv(padding, mode):
    x, kernel = images(1, 9, 8, 1), images(3, 3, 1, 2)
    out = portable.conv(jnp.asarray(x), jnp.asarray(kernel), padding)
    for o in range(2):
        expected = signal.correlate(x[0, :, :, 0], kernel[:, :, 0, o], mode)
        np.testing.assert_allclose(out[0, :, :, o], expected, atol=1e-6)


@pytest.mark.parametrize("form", [False, True])
def test_largest_around(form):
    x = images(2, 6, 5, 3) - 0.5
    with portable.form(form):
        out = portable.largest_around(jnp.asarray(x))
    expected = ndimage.maximum_filter(x, (1, 3, 3, 1), mode="constant", cval=-np.inf)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("axes", [(1,), (1, 2)])
@pytest.mark.parametrize("form", [False, True])
def test_softmax(form, axes):
    x = 90 * images(2, 6, 5, 3)
    with portable.form(form):
        out = portable.softmax(jnp.asarray(x), axes)
    np.testing.assert_allclose(out, special.softmax(x, axes), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (17, 10)])
def test_average_squares(size):
    x = images(2, *size, 3)
    out = portable.average_squares(jnp.asarray(x), 4)
    rows, columns = (range(0, side, 4) for side in size)
    expected = [
        [x[:, i : i + 4, j : j + 4].mean((1, 2)) for j in columns] for i in rows
    ]
    np.testing.assert_allclose(out, np.moveaxis(expected, 2, 0), rtol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(8, 9), (13, 8)])
def test_resize_bicubic(scale, size):
    x = images(2, *size, 1)
    out = np.asarray(portable.resize_bicubic(jnp.asarray(x), scale))
    usual = resize_bicubic(jnp.asarray(x), scale)
    np.testing.assert_allclose(out, usual, atol=2e-6)
    wanted = (size[1] * scale, size[0] * scale)
    pillow = Image.fromarray(x[1, :, :, 0]).resize(wanted, Image.Resampling.BICUBIC)
    np.testing.assert_allclose(out[1, :, :, 0], np.asarray(pillow), atol=2e-6)


@pytest.mark.parametrize("scale", [2, 3])
def test_shuffle_pixels(scale):
    x = jnp.asarray(images(2, 5, 4, 2 * scale**2))
    expected = dm_pix.depth_to_space(x, scale)
    np.testing.assert_array_equal(portable.shuffle_pixels(x, scale), expected)
