"""The two metrics of detail: identities, orders, and an independent computation."""

import math

import cv2
import numpy as np
import pytest
from scipy import ndimage

from hkdnet_jax import metrics
from hkdnet_jax.metrics.detail import detail_energy, detail_fidelity

H, W = 75, 110  # blocks of 37 or 38 by 36 or 37 pixels


def sources(seed=0, height=H, width=W):
    """Two unrelated images with detail at every size, float64 levels 0..255."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(2):
        noise = rng.normal(size=(height, width))
        layers = (s * ndimage.gaussian_filter(noise, s) for s in (0.5, 1, 2, 4, 8))
        texture = sum(layers)
        images.append(120 + 30 * texture / texture.std())
    return images


def both(ir, vis, fused, scale=2):
    images = [np.ascontiguousarray(x, np.float64) for x in (ir, vis, fused)]
    fidelity = detail_fidelity(*images, scale=scale)
    return fidelity, detail_energy(*images, scale=scale)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_any_constant_weight_of_the_sources_gives_one_and_one(scale, share):
    ir, vis = sources()
    fused = share * ir + (1 - share) * vis - 20
    assert both(ir, vis, fused, scale) == pytest.approx((1, 1), abs=1e-9)


def test_a_slowly_varying_weight_gives_nearly_one_and_one():
    ir, vis = sources()
    share = np.linspace(0.2, 0.8, W)[None]
    assert both(ir, vis, share * ir + (1 - share) * vis) == pytest.approx(
        (1, 1), abs=0.05
    )
    share = 0.5 + 0.3 * np.sin(np.linspace(0, math.pi, H))[:, None]
    assert both(ir, vis, share * ir + (1 - share) * vis) == pytest.approx(
        (1, 1), abs=0.05
    )


@pytest.mark.parametrize("scale", [2, 4])
def test_noise_lowers_fidelity_and_hardly_touches_energy(scale):
    ir, vis = sources()
    rng = np.random.default_rng(1)
    found = [
        both(ir, vis, (ir + vis) / 2 + rng.normal(0, s, ir.shape), scale)
        for s in (0, 3, 6, 12)
    ]
    fidelities, energies = zip(*found, strict=True)
    assert list(fidelities) == sorted(fidelities, reverse=True)
    assert fidelities[-1] < 0.7
    assert energies == pytest.approx([1] * 4, abs=0.15)


def test_white_noise_alone_has_the_fidelity_of_chance():
    ir, vis = sources()
    noise = np.random.default_rng(2).normal(0, 9, ir.shape)
    assert both(ir, vis, noise)[0] < 0.02  # two weights fit each block of 1,300 pixels


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_blur_lowers_energy_and_sharpening_raises_it(scale):
    ir, vis = sources()
    fused = 0.4 * ir + 0.6 * vis
    blurred = [ndimage.gaussian_filter(fused, s * scale) for s in (0.2, 0.4, 0.8)]
    energies = [both(ir, vis, x, scale)[1] for x in (fused, *blurred)]
    assert energies == sorted(energies, reverse=True) and energies[-1] < 0.2
    sharp = fused + 0.5 * (fused - blurred[-1])
    assert both(ir, vis, sharp, scale)[1] > 1.2


def test_equals_an_independent_computation():
    ir, vis = sources(3, 72, 108)
    fused = ndimage.uniform_filter(0.7 * ir + 0.3 * vis, 2) + 5 * np.sin(ir)
    scale = 3

    def smooth(image, sigma):
        # OpenCV's window, as wide as SciPy's: 4 sigma to either side.
        side = 2 * int(4 * sigma + 0.5) + 1
        border = cv2.BORDER_REFLECT
        return cv2.GaussianBlur(image, (side, side), sigma, borderType=border)

    low = [smooth(x, 0.8 * scale) for x in (ir, vis, fused)]
    lower = [smooth(x, 1.6 * scale) for x in (ir, vis, fused)]
    high = [x - y for x, y in zip((ir, vis, fused), low, strict=True)]
    band = [x - y for x, y in zip(low, lower, strict=True)]
    fit = total = true = 0.0
    for y in (0, 36):
        for x in (0, 36, 72):

            def block(planes, y=y, x=x):
                return [plane[y : y + 36, x : x + 36].ravel() for plane in planes]

            def weights(a, b, f):  # the normal equations, by Cramer's rule
                aa, ab, bb, af, bf = a @ a, a @ b, b @ b, a @ f, b @ f
                det = aa * bb - ab * ab
                return (af * bb - bf * ab) / det, (bf * aa - af * ab) / det

            a, b, f = block(high)
            u, v = weights(a, b, f)
            p, q = weights(*block(band))
            fit += np.sum((u * a + v * b) ** 2)
            total += np.sum(f**2)
            true += np.sum((p * a + q * b) ** 2)
    want = (fit / total, fit / true)
    assert 0.1 < want[0] < 0.95
    assert both(ir, vis, fused, scale) == pytest.approx(want, rel=1e-6)


def test_as_metrics_of_evaluate():
    assert metrics.DETAIL == ("detail_fidelity", "detail_energy")
    images = [np.round(x).clip(0, 255).astype(np.uint8) for x in sources()]
    fused = np.round(images[0] * 0.5 + images[1] * 0.5).astype(np.uint8)
    for scale in (2, 4):
        values = metrics.score(*images, fused, metrics.DETAIL, scale)
        floats = [x.astype(np.float64) for x in (*images, fused)]
        want = (
            detail_fidelity(*floats, scale=scale),
            detail_energy(*floats, scale=scale),
        )
        assert tuple(values.values()) == want
    flat = np.full((H, W), 9, np.uint8)
    assert np.isnan(metrics.score(*images, flat, metrics.DETAIL, 2)["detail_fidelity"])
    assert np.isnan(
        metrics.score(flat, flat, fused, metrics.DETAIL, 2)["detail_energy"]
    )
    small = [x[:35] for x in (*images, fused)]
    assert np.isnan(list(metrics.score(*small, metrics.DETAIL, 2).values())).all()
