"""The weight gradient by minimal filtering, against the direct sum in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hkdnet_jax.ops import winograd
from hkdnet_jax.ops.winograd import weight_gradient


def direct(x, grad):
    """d kernel[a, b] = sum of x, moved by (a - 1, b - 1), times grad."""
    x, grad = np.asarray(x, np.float64), np.asarray(grad, np.float64)
    _, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.array(
        [
            [
                np.einsum("nhwi,nhwo->io", padded[:, a : a + h, b : b + w], grad)
                for b in range(3)
            ]
            for a in range(3)
        ]
    )


def arrays(shape, o, seed=0):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    return x, jnp.asarray(rng.normal(size=(*shape[:3], o)), jnp.float32)


@pytest.mark.parametrize(
    "shape,o,jitted",
    [
        ((2, 8, 12, 5), 4, True),
        ((2, 8, 12, 5), 4, False),  # operation by operation, which takes longer
        ((1, 5, 7, 3), 6, True),
        ((3, 1, 1, 4), 4, True),
        ((2, 2, 9, 32), 33, True),
        ((1, 24, 24, 64), 64, True),
    ],
)
def test_equals_the_direct_sum(shape, o, jitted):
    x, grad = arrays(shape, o)
    got = (jax.jit(weight_gradient) if jitted else weight_gradient)(x, grad)
    want = direct(x, grad)
    assert got.shape == want.shape and got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * np.abs(want).max())


# In tiles of 4x4: 3 rows of 2 an image.
SHAPE, OUTPUTS = (6, 10, 7, 2), 3
ROW_BYTES = 4 * 36 * 2 * (2 + 3)  # bytes of 36 places of 2 tiles, 2 + 3 channels


@pytest.mark.parametrize(
    "rows,groups,images,bands,height",
    [
        (18, 1, 6, 1, 12),  # all at once
        (17.9, 2, 3, 1, 12),  # 5 would fit, but 3 and 3 need no padding
        (6, 3, 2, 1, 12),
        (5.9, 6, 1, 1, 12),
        (3, 6, 1, 1, 12),
        (2.9, 6, 1, 2, 8),  # the second band is half padding
        (1, 6, 1, 3, 4),
        (0.1, 6, 1, 3, 4),  # never less than a row of tiles
    ],
)
def test_chunks_that_the_caches_hold(monkeypatch, rows, groups, images, bands, height):
    monkeypatch.setattr(winograd, "_CACHED_BYTES", int(rows * ROW_BYTES))
    chunks = winograd._chunks(*SHAPE[:3], SHAPE[3] + OUTPUTS)
    assert chunks == (groups, images, bands, height)
    x, grad = arrays(SHAPE, OUTPUTS, seed=1)
    want = direct(x, grad)
    got = jax.jit(lambda *args: weight_gradient(*args))(x, grad)
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * np.abs(want).max())


def test_chunks_of_a_prime_batch(monkeypatch):
    """Seven images, of which three fit: the third group has one, and zeros."""
    monkeypatch.setattr(winograd, "_CACHED_BYTES", 10 * ROW_BYTES)
    assert winograd._chunks(7, *SHAPE[1:3], SHAPE[3] + OUTPUTS) == (3, 3, 1, 12)
    x, grad = arrays((7, *SHAPE[1:]), OUTPUTS, seed=1)
    want = direct(x, grad)
    got = jax.jit(lambda *args: weight_gradient(*args))(x, grad)
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * np.abs(want).max())


def test_memory_does_not_grow_with_the_batch():
    def temporary(n):
        shapes = [jax.ShapeDtypeStruct((n, 32, 32, 64), jnp.float32)] * 2
        compiled = jax.jit(weight_gradient).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    padded = 2 * 34 * 34 * 64 * 4  # of one image: both arrays with their borders
    assert temporary(64) - temporary(32) < 1.1 * 32 * padded


def test_its_program_is_small():
    """A network has dozens of it, which take most of the time and memory to compile."""
    shapes = [jax.ShapeDtypeStruct((2, 16, 16, 32), jnp.float32)] * 2
    assert jax.jit(weight_gradient).lower(*shapes).as_text().count("\n") < 500


def test_as_exact_as_the_direct_convolution():
    x, grad = arrays((8, 32, 32, 32), 32, seed=2)
    want = direct(x, grad)

    def error(got):
        return np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want)

    other = jax.lax.conv_general_dilated(
        x, grad, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("CHWN", "IHWO", "HWNC")
    )
    assert error(weight_gradient(x, grad)) < max(1.5 * error(other), 1.5e-6)
