"""The weight gradient by minimal filtering, against the direct sum in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hkdnet_jax.ops import winograd
from hkdnet_jax.ops.winograd import images_at_once, weight_gradient


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


@pytest.mark.parametrize(
    "shape,o",
    [((2, 6, 8, 5), 4), ((1, 5, 7, 3), 6), ((3, 1, 1, 4), 4), ((2, 2, 9, 32), 33)],
)
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_equals_the_direct_sum(shape, o, jitted):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    grad = jnp.asarray(rng.normal(size=(*shape[:3], o)), jnp.float32)
    run = jax.jit(weight_gradient, static_argnums=2) if jitted else weight_gradient
    want = direct(x, grad)
    for together in [k for k in range(1, shape[0] + 1) if shape[0] % k == 0]:
        got = run(x, grad, together)
        assert got.shape == want.shape and got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-6 * np.abs(want).max())


def test_groups_of_a_larger_batch():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(12, 3, 4, 2)), jnp.float32)
    grad = jnp.asarray(rng.normal(size=(12, 3, 4, 3)), jnp.float32)
    want = direct(x, grad)
    for together in (1, 2, 4, 6, 12):
        got = jax.jit(weight_gradient, static_argnums=2)(x, grad, together)
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-6 * np.abs(want).max())


def test_as_many_images_as_the_caches_hold(monkeypatch):
    image = (
        4 * 16 * (3 * 4) * (2 + 3)
    )  # bytes of 16 places of 3x4 tiles, 2 + 3 channels
    for images, n, wanted in (
        (4, 4, 4),
        (3.9, 4, 2),
        (1.9, 4, 0),  # single images in a loop do not pay
        (1, 1, 1),
        (0.9, 1, 0),
        (6, 7, 0),  # 7 has no divisor but 1
        (6, 12, 6),
        (5, 12, 4),
    ):
        monkeypatch.setattr(winograd, "_CACHED_BYTES", int(images * image))
        assert images_at_once((n, 5, 8, 2), 3) == wanted, (images, n)
