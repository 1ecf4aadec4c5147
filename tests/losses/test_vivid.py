"""The vivid teacher's target and loss, against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_images import KINDS, float_images, reference_ssim
from scipy import ndimage

from hkdnet_jax.losses import vivid
from hkdnet_jax.models import vivid as rule

vivid_target = jax.jit(vivid.vivid_target)
vivid_loss = jax.jit(vivid.vivid_loss)


def reference_mean(x: np.ndarray, sigma: float) -> np.ndarray:
    """SciPy's Gaussian mean of [H, W] over the pixels that are there."""
    settings = {"sigma": sigma, "mode": "constant", "radius": int(2.5 * sigma)}
    total, weight = (
        ndimage.gaussian_filter(values, **settings) for values in (x, np.ones_like(x))
    )
    return total / weight


def reference_tone(x: np.ndarray) -> np.ndarray:
    """Levels limited to 0.03..0.8, with knees of 0.25."""
    out = x.copy()
    high, low = x > 0.55, x < 0.28
    out[high] = 0.55 + 0.25 * np.tanh((x[high] - 0.55) / 0.25)
    out[low] = 0.28 + 0.25 * np.tanh((x[low] - 0.28) / 0.25)
    return out


def reference_target(
    ir: np.ndarray, vis: np.ndarray, sigma: float = 12.0
) -> np.ndarray:
    """The formula of the module, for one pair of float64 [H, W], not clipped."""
    lows = [reference_mean(x, sigma) for x in (ir, vis)]
    details = [x - low for x, low in zip((ir, vis), lows, strict=True)]
    squares = [np.where(details[0] > 0, 2.5, 1.0) * details[0], details[1]]
    strengths = [reference_mean(d**2, sigma / 4) ** 2 for d in squares]
    strengths = [e + (1 / 255) ** 4 for e in strengths]
    chosen = sum(e * d for e, d in zip(strengths, details, strict=True))
    return reference_tone(0.8 * sum(lows) - 0.14) + 1.2 * chosen / sum(strengths)


def test_the_reference_has_the_constants_of_the_module():
    constants = (rule.LOW_SIGMA, rule.NEAR, rule.WARM, rule.SHARPNESS)
    assert constants == (12.0, 0.25, 2.5, 4)
    assert (rule.GAIN, rule.OFFSET, rule.NOISE) == (0.8, 0.14, 1 / 255)
    assert rule.CONTRAST == 1.2
    assert (rule.BLACK, rule.WHITE, rule.KNEE) == (0.03, 0.8, 0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_target_equals_scipy(kind):
    pair = float_images(kind)
    target = vivid_target(*pair)
    assert target.shape == pair[0].shape and target.dtype == jnp.float32
    for ir, vis, ours in zip(*pair, np.asarray(target), strict=True):
        expected = reference_target(ir[..., 0].astype(float), vis[..., 0].astype(float))
        np.testing.assert_allclose(ours[..., 0], np.clip(expected, 0, 1), atol=2e-4)


def test_the_rule_at_another_resolution_equals_scipy():
    ir, vis = (x[:1] for x in float_images("smooth"))
    got = np.asarray(rule.vivid_images(jnp.asarray(ir), jnp.asarray(vis), 4.0))
    expected = reference_target(*(x[0, ..., 0].astype(float) for x in (ir, vis)), 4.0)
    np.testing.assert_allclose(got[0, ..., 0], expected, atol=2e-4)


def scene(hot: float, cold: float, target: float, around: float) -> list[np.ndarray]:
    """A pair with a person of 7x15 pixels: infrared levels, then visible ones."""
    pair = [np.full((1, 64, 64, 1), level, np.float32) for level in (cold, around)]
    for image, level in zip(pair, (hot, target), strict=True):
        image[:, 24:39, 28:35] = level
    return pair


def contrast(image: np.ndarray) -> float:
    """Of the person's levels against those 2 to 6 pixels away."""
    around = np.ones((64, 64), bool)
    around[22:41, 26:37] = False
    near = np.zeros_like(around)
    near[18:45, 22:41] = True
    return float(image[0, 24:39, 28:35].mean() - image[0, ..., 0][around & near].mean())


@pytest.mark.parametrize(
    ("levels", "where"),
    [
        ((0.65, 0.4, 0.9, 0.9), "white smoke"),
        ((0.9, 0.4, 0.1, 0.4), "dark clothes by day"),
        ((0.8, 0.3, 0.02, 0.02), "night"),
        ((0.7, 0.4, 0.6, 0.6), "fog"),
        ((0.65, 0.4, 1.0, 1.0), "glare"),
    ],
)
def test_a_hot_target_keeps_its_contrast(levels, where):
    ir, vis = scene(*levels)
    assert contrast(vivid_target(ir, vis)) >= 0.8 * contrast(ir), where
    if levels[3] >= 0.6:  # what a maximum would lose
        assert contrast(np.maximum(ir, vis)) < 0.8 * contrast(ir)


def test_visible_texture_stays_whole_where_infrared_is_flat():
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=(1, 96, 96, 1)), (0, 1, 1, 0))
    vis = np.float32(0.4 + 0.1 * texture / texture.std())
    target = vivid_target(np.full_like(vis, 0.4), vis)
    inside = slice(24, -24)
    a, b = (x[0, inside, inside, 0] for x in (target, vis))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99
    assert np.std(a) == pytest.approx(1.2 * np.std(b), rel=0.05)


def test_faint_noise_of_both_is_averaged():
    rng = np.random.default_rng(0)
    pair = (0.4 + rng.normal(0, 0.3 / 255, (2, 1, 64, 64, 1))).astype(np.float32)
    inside = slice(8, -8)
    target = np.asarray(vivid_target(*pair))[0, inside, inside]
    noise = np.std(pair[0]) / np.sqrt(2)
    assert np.std(target) == pytest.approx(1.2 * noise, rel=0.1)


def test_tone_is_smooth_and_increases():
    levels = jnp.linspace(-0.5, 2.0, 501)
    slopes = jax.vmap(jax.grad(rule.tone))(levels)
    assert np.all(slopes >= 0) and np.all(slopes <= 1)
    assert np.abs(np.diff(slopes)).max() < 0.05
    same = (levels > 0.28) & (levels < 0.55)
    np.testing.assert_array_equal(rule.tone(levels)[same], levels[same])


@pytest.mark.parametrize("kind", KINDS)
def test_loss_equals_numpy(kind):
    pair = ir, vis = float_images(kind)
    output = np.clip(0.5 * ir + 0.4 * vis, 0, 1)
    total, terms = vivid_loss(jnp.asarray(output), *pair)
    target = np.asarray(vivid_target(*pair), float)

    def sobel(x: np.ndarray) -> np.ndarray:
        planes = x[..., 0].astype(float)
        slopes = [ndimage.sobel(p, axis) for p in planes for axis in (0, 1)]
        return np.stack(slopes)[:, 1:-1, 1:-1]

    similarities = [reference_ssim(output, source).mean() for source in pair]
    expected = {
        "intensity": np.abs(output - target).mean(),
        "gradient": 2 * np.abs(sobel(output) - sobel(target)).mean(),
        "similarity": 1 - np.mean(similarities),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].shape == () and terms[name].dtype == jnp.float32
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, atol=2e-5)
    weighted = 10 * terms["intensity"] + terms["gradient"] + 0.5 * terms["similarity"]
    np.testing.assert_allclose(total, weighted, rtol=1e-6)


def test_weights_choose_the_terms():
    ir, vis = map(jnp.asarray, float_images("smooth"))
    output = 0.5 * (ir + vis)
    names = ("intensity", "gradient", "similarity")
    _, terms = vivid_loss(output, ir, vis)
    for name in names:
        only = {other: float(other == name) for other in names}
        total, _ = vivid_loss(output, ir, vis, **only)
        np.testing.assert_allclose(total, terms[name], rtol=1e-6)


def test_the_gradient_leads_to_the_target():
    ir, vis = map(jnp.asarray, float_images("smooth", 24, 24, 1))
    output = jnp.asarray(0.5 * (ir + vis))
    step = jax.jit(jax.grad(lambda x: vivid.vivid_loss(x, ir, vis, similarity=0.0)[0]))
    before = np.abs(output - vivid_target(ir, vis)).mean()
    for _ in range(60):
        output -= 0.004 * jnp.sign(step(output))
    assert np.abs(output - vivid_target(ir, vis)).mean() < 0.5 * before


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        (((1, 16, 16, 1), (1, 16, 17, 1)), "differ"),
        (((16, 16), (16, 16)), "images"),
    ],
)
def test_wrong_shapes_are_named(shapes, named):
    a, b = (jnp.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=named):
        vivid.vivid_target(a, b)


def test_integers_are_refused():
    a = jnp.zeros((1, 16, 16, 1), jnp.uint8)
    with pytest.raises(ValueError, match="floating-point"):
        vivid.vivid_target(a, a)
