"""Images that fill only part of their arrays: each as if it were alone."""

import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest

from hkdnet_jax.ops.conv import conv3x3_reflect
from hkdnet_jax.ops.extent import (
    Extent,
    clear,
    enlarge_bicubic,
    reflect,
    spatial_mean,
    stack,
)
from hkdnet_jax.ops.harris import corner_mask, harris_response
from hkdnet_jax.ops.position_attention import attention, position_attention

SHAPE = (9, 11)
SIZES = ((9, 11), (2, 2), (5, 11), (9, 4), (6, 7))


def images(channels, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(*size, channels)).astype(np.float32) for size in SIZES]


def padded(alone, beyond=0.0):
    """The images in one array, and their extent; `beyond` is what follows them."""
    extent = Extent.of(alone)
    array = jnp.asarray(stack(alone, SHAPE))
    return jnp.where(extent.inside(array), array, beyond), extent


def assert_each(got, wanted, rtol=1e-5, scale=1):
    """The images in the top left of `got` are the wanted ones."""
    for array, want in zip(np.asarray(got), wanted, strict=True):
        h, w = want.shape[:2]
        assert h % scale == 0 and w % scale == 0
        np.testing.assert_allclose(
            array[:h, :w], want, rtol=rtol, atol=rtol * np.abs(want).max()
        )


def test_stack_and_clear():
    alone = images(3)
    array, extent = padded(alone)
    assert array.shape == (len(SIZES), *SHAPE, 3)
    assert_each(array, alone, rtol=0)
    assert float(jnp.abs(array).sum()) == pytest.approx(
        sum(np.abs(x).sum() for x in alone), rel=1e-6
    )
    dirty, _ = padded(alone, beyond=np.nan)
    np.testing.assert_array_equal(clear(dirty, extent), array)
    assert clear(dirty, None) is dirty
    large = extent.scaled(3)
    assert np.array(large).T.tolist() == [[3 * h, 3 * w] for h, w in SIZES]


def test_mean():
    alone = images(3)
    array, extent = padded(alone)
    want = [x.mean(axis=(0, 1), keepdims=True) for x in alone]
    assert_each(spatial_mean(array, extent), want)
    np.testing.assert_array_equal(
        spatial_mean(array, None), jnp.mean(array, axis=(1, 2), keepdims=True)
    )


def test_reflection_at_each_border():
    alone = images(2)
    array, extent = padded(alone, beyond=1e3)
    got = np.asarray(reflect(array, extent))
    assert got.shape == (len(SIZES), SHAPE[0] + 2, SHAPE[1] + 2, 2)
    want = [np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="reflect") for x in alone]
    assert_each(got, want, rtol=0)
    whole = reflect(array[:1], None)
    np.testing.assert_array_equal(whole, want[:1])


def test_reflecting_convolution():
    alone = images(2)
    kernel = np.random.default_rng(1).normal(size=(3, 3, 2, 4)).astype(np.float32)
    array, extent = padded(alone, beyond=1e3)
    got = conv3x3_reflect(array, jnp.asarray(kernel), extent=extent)
    want = [ref.conv3x3(x[None], kernel, padding="reflect")[0] for x in alone]
    assert_each(got, want)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic(scale):
    alone = images(1)
    array, extent = padded(alone)
    want = [ref.bicubic(x[None], scale)[0] for x in alone]
    assert_each(enlarge_bicubic(array, scale, extent), want, scale=scale)


def test_corners():
    alone = [4 * x for x in images(3)]
    # What is beyond the border would be by far the strongest corner.
    array, extent = padded(alone, beyond=0.0)
    array = array.at[1, 4:7, 4:7].set(1e3)
    want = [np.asarray(harris_response(jnp.asarray(x[None])))[0] for x in alone]
    assert_each(harris_response(array, extent=extent), want, rtol=1e-6)
    want = [ref.corner_mask(x[None], 0.7)[0] for x in alone]
    assert_each(corner_mask(array, extent=extent), want, rtol=0)


@pytest.mark.parametrize("mode", ["row", "joint"])
@pytest.mark.parametrize("pool", [1, 2, 4])
@pytest.mark.parametrize("implementation", ["materialized", "blocked"])
def test_position_attention(mode, pool, implementation):
    alone = images(4)
    array, extent = padded(alone)
    got = position_attention(array, mode, implementation, pool, block=7, extent=extent)
    want = [ref.position_attention(x[None], mode, pool)[0] for x in alone]
    assert_each(got, want, rtol=2e-5)


def test_cudnn_takes_no_positions_that_do_not_count():
    x = jnp.zeros((1, 2, 2, 8), jnp.bfloat16)
    there = jnp.ones((1, 2, 2), bool)
    with pytest.raises(ValueError, match="use blocked"):
        attention(x, x, x, implementation="cudnn", valid=(there, there))
