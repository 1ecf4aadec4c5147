"""Convolutions of features in tiles, against the direct sum in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hkdnet_jax.ops import tiles


def arrays(shape, o, seed=0):
    rng = np.random.default_rng(seed)
    draw = (rng.normal(size=s) for s in (shape, (3, 3, shape[-1], o), (*shape[:3], o)))
    return [jnp.asarray(a, jnp.float32) for a in draw]


def direct(x, kernel):
    x, kernel = np.float64(x), np.float64(kernel)
    _, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        np.einsum("nhwi,io->nhwo", padded[:, a : a + h, b : b + w], kernel[a, b])
        for a in range(3)
        for b in range(3)
    )


def in_tiles(x, kernel):
    _, h, w, _ = x.shape
    return tiles.from_tiles(tiles.conv(tiles.to_tiles(x), kernel), h, w)


SHAPES = [
    ((2, 8, 12, 5), 4),
    ((1, 5, 7, 3), 6),
    ((3, 1, 1, 4), 4),
    ((5, 10, 12, 7), 8),
    ((1, 24, 20, 32), 32),
]


@pytest.mark.parametrize(("h", "w"), [(8, 4), (5, 7), (1, 1), (9, 12)])
def test_tiles_and_back(h, w):
    x, _, _ = arrays((2, h, w, 3), 1)
    cut = np.asarray(tiles.to_tiles(x))
    assert cut.shape == (4, 4, 2, -(-h // 4), -(-w // 4), 3)
    marks = tiles.inside(h, w)
    marks = np.ones((4, 4, 1, h // 4, w // 4, 1)) if marks is None else marks
    for a in range(4 * cut.shape[3]):
        for b in range(4 * cut.shape[4]):
            tile = cut[a % 4, b % 4, :, a // 4, b // 4]
            if a < h and b < w:
                np.testing.assert_array_equal(tile, x[:, a, b])
            else:
                assert not tile.any()
            assert marks[a % 4, b % 4, 0, a // 4, b // 4, 0] == (a < h and b < w)
    np.testing.assert_array_equal(tiles.from_tiles(jnp.asarray(cut), h, w), x)


@pytest.mark.parametrize(("shape", "o"), SHAPES)
def test_values_are_the_direct_sum(shape, o):
    x, kernel, _ = arrays(shape, o)
    got, want = jax.jit(in_tiles)(x, kernel), direct(x, kernel)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-6 * np.abs(want).max())


@pytest.mark.parametrize(("shape", "o"), SHAPES[1:])
def test_gradients_are_those_of_jax(shape, o):
    x, kernel, grad = arrays(shape, o, seed=1)

    def plain(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers
        )

    def gradients(conv):
        return jax.jit(lambda g, *args: jax.vjp(conv, *args)[1](g))(grad, x, kernel)

    for got, want in zip(gradients(in_tiles), gradients(plain), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_no_number_switches_the_transform_off():
    x, kernel, _ = arrays((1, 4, 4, 2), 2)
    for first in (np.nan, -np.inf, 0.0, -0.0):
        odd = kernel.at[0, 0, 0, 0].set(first)
        got = np.asarray(in_tiles(x, odd))
        # The corner's first output does not see this tap, and Winograd's sums do.
        assert np.isfinite(got).all() == np.isfinite(first)
