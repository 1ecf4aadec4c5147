"""Li's variational model: its energy, its gradient, its descent."""

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.special import binom

from hkdnet_jax.baselines import li


def images(height=6, width=7):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    ir = 0.5 + 0.3 * np.sin(x / 2) + rng.normal(0, 0.02, (height, width))
    vis = 0.5 + 0.3 * np.cos(y / 2) + rng.normal(0, 0.02, (height, width))
    return ir, vis


def pillow(image, height, width, kind):
    return np.asarray(Image.fromarray(np.float32(image)).resize((width, height), kind))


def numpy_energy(u, ir, vis, scale):
    """The sums of the module's docstring, pixel by pixel."""

    def slopes(image, i, j):
        h, w = image.shape
        across = image[i, j + 1] - image[i, j] if j + 1 < w else 0.0
        down = image[i + 1, j] - image[i, j] if i + 1 < h else 0.0
        return np.array([across, down])

    small = pillow(u, *ir.shape, Image.BILINEAR) if scale > 1 else u
    total = 0.0
    for i, j in np.ndindex(ir.shape):
        g = sum(np.outer(slopes(x, i, j), slopes(x, i, j)) for x in (ir, vis))
        v = slopes(small, i, j)
        scaled = 4 * (np.trace(g) + li.TENSOR_FLOOR**2)
        total += np.sum((np.outer(v, v) - g) ** 2) / scaled
        total += li.LEVEL / 2 * (small[i, j] - (ir[i, j] + vis[i, j]) / 2) ** 2
    coefficients = [(-1) ** k * binom(li.ORDER, k) for k in range(li.TAPS - 1)]
    coefficients.append(-sum(coefficients))
    for i, j in np.ndindex(u.shape):
        s2 = np.sum(slopes(u, i, j) ** 2)
        for sign, width in ((1, li.SMOOTH), (-li.SHARE, li.STEEP)):
            potential = width**2 / 2 * (1 - np.exp(-s2 / width**2))
            total += li.DIFFUSION * sign * potential
        across = sum(c * u[i, max(0, j - k)] for k, c in enumerate(coefficients))
        down = sum(c * u[max(0, i - k), j] for k, c in enumerate(coefficients))
        root = np.sqrt(across**2 + down**2 + li.EPSILON**2)
        total += li.VARIATION * root
    return total


@pytest.mark.parametrize("scale", [1, 2])
def test_the_energy_is_the_stated_one(scale):
    ir, vis = images()
    u = np.random.default_rng(1).uniform(0, 1, (6 * scale, 7 * scale))
    want = numpy_energy(u, ir, vis, scale)
    got = li.energy(*(np.float32(x) for x in (u, ir, vis)), scale)
    assert float(got) == pytest.approx(want, rel=1e-5)


def test_the_gradient_is_the_slope_of_the_energy():
    ir, vis = images()
    u = np.random.default_rng(2).uniform(0.2, 0.8, (12, 14))
    with jax.enable_x64(True):
        energy = jax.jit(lambda u: li.energy(u, ir, vis, 2))
        slope = np.asarray(jax.grad(energy)(u))
        for direction in np.random.default_rng(3).normal(size=(4, 12, 14)):
            step = 1e-5 * direction
            numeric = float(energy(u + step) - energy(u - step)) / 2e-5
            assert np.sum(slope * direction) == pytest.approx(numeric, rel=1e-6)


def test_the_energy_falls_monotonically_and_far():
    ir, vis = (np.float32(x) for x in images(20, 24))
    u, energies = li.descend(ir, vis, 2, steps=60)
    energies = np.asarray(energies)
    assert u.shape == (40, 48) and energies.shape == (61,)
    assert (np.diff(energies) <= 0).all() and energies[-1] < 0.8 * energies[0]
    mean = pillow((ir + vis) / 2, 40, 48, Image.BICUBIC)
    start = float(li.energy(mean, ir, vis, 2))
    assert energies[0] == pytest.approx(start, rel=1e-4)
    end = float(li.energy(u, ir, vis, 2))
    assert energies[-1] == pytest.approx(end, rel=1e-5)


def test_a_flat_pair_stays_flat():
    ir, vis = np.full((4, 5), 0.2, np.float32), np.full((4, 5), 0.6, np.float32)
    for scale in (1, 2, 3):
        image = li.fuse(ir, vis, scale)
        assert image.shape == (4 * scale, 5 * scale) and image.dtype == np.float32
        np.testing.assert_allclose(image, 0.4, atol=1e-3)


def test_masks_of_whole_orders_are_differences():
    np.testing.assert_allclose(li.mask(1.0, 4), [1, -1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(li.mask(2.0, 4), [1, -2, 1, 0], atol=1e-15)
    want = [(-1) ** j * binom(0.6, j) for j in range(5)]
    np.testing.assert_allclose(li.mask(0.6, 6), [*want, -sum(want)])
