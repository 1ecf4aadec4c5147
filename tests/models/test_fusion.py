"""The fusion layer, Eq. 14 to 16."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest

from hkdnet_jax.models.fusion import (
    activity,
    fuse_features,
    fuse_images,
    infrared_weight,
)


def features(h=7, w=9, c=5, seed=0):
    values = np.random.default_rng(seed).normal(size=(2, h, w, c))
    return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize("h,w", [(7, 9), (13, 5), (2, 2), (1, 1)])
def test_equations_border_included(h, w):
    ir, vis = features(h, w, seed=1), 0.3 * features(h, w, seed=2)
    weight, fused = jax.jit(lambda a, b: (infrared_weight(a, b), fuse_features(a, b)))(
        ir, vis
    )
    assert weight.shape == (2, h, w, 1)
    np.testing.assert_allclose(weight[..., 0], ref.infrared_weight(ir, vis), rtol=1e-5)
    np.testing.assert_allclose(fused, ref.fuse_features(ir, vis), atol=1e-5)


def test_activity_is_nine_times_the_mean_inside():
    x = features()
    inside = np.asarray(activity(x))[:, 1:-1, 1:-1, 0]
    want = 9 * ref.mean_activity(x)[:, 1:-1, 1:-1]
    np.testing.assert_allclose(inside, want, rtol=1e-5)


def test_weight_is_a_ratio_not_a_softmax():
    # 3 to 1 in activity is 3/4 to 1/4, at any strength of the signal.
    for size in (1e-3, 1.0, 1e3):
        ones = size * jnp.ones((1, 4, 4, 2))
        weight = infrared_weight(3 * ones, -ones)
        np.testing.assert_allclose(weight, np.full((1, 4, 4, 1), 0.75), rtol=1e-6)


def test_equal_features_are_returned_and_sides_mirror():
    ir, vis = features(seed=1), features(seed=2)
    np.testing.assert_allclose(fuse_features(ir, ir), ir, rtol=1e-6)
    both = infrared_weight(ir, vis) + infrared_weight(vis, ir)
    np.testing.assert_allclose(both, np.ones(both.shape), rtol=1e-6)


def test_a_dead_side_gives_way_and_two_dead_sides_share():
    x, zero = features(), jnp.zeros((2, 7, 9, 5))
    np.testing.assert_allclose(fuse_features(zero, x), x)
    np.testing.assert_allclose(fuse_features(x, zero), x)
    half = np.full((2, 7, 9, 1), 0.5)
    np.testing.assert_array_equal(infrared_weight(zero, zero), half)


def test_gradient_is_finite_at_any_strength():
    gradient = jax.jit(jax.grad(lambda a, b: jnp.sum(fuse_features(a, b)), (0, 1)))
    for size in (0.0, 1e-25, 1e-6, 1.0, 1e6):
        ir, vis = size * features(seed=1), size * features(seed=2)
        # A patch where both vanish, larger than the window, in every case.
        ir, vis = (x.at[:, :4, :4].set(0.0) for x in (ir, vis))
        for g in gradient(ir, vis):
            assert np.all(np.isfinite(g)) and np.any(g)


def test_bfloat16_features_with_float32_weights():
    ir, vis = (features(seed=s).astype(jnp.bfloat16) for s in (1, 2))
    assert infrared_weight(ir, vis).dtype == jnp.float32
    fused = fuse_features(ir, vis)
    assert fused.dtype == jnp.bfloat16
    want = ref.fuse_features(*(np.asarray(x, np.float32) for x in (ir, vis)))
    np.testing.assert_allclose(fused.astype(jnp.float32), want, atol=0.04)


def test_images_fused_by_the_equations_themselves():
    flat = jnp.ones((1, 4, 5, 1))
    # 0.6 + 0.5 * 0.2, and 3/4 of 0.6 with 1/4 of 0.2, over 2.5.
    for alpha, damping, want in (
        (0.5, 0.0, 0.48),
        (0.0, 0.0, 0.55),
        # Weights 0.8/1.2 and 0.4/1.2: 0.6 + 0.25 * 0.2 + 0.4 + 0.2/3, over 2.25.
        (0.25, 0.2, (0.65 + 1.4 / 3) / 2.25),
    ):
        fused = fuse_images(0.6 * flat, 0.2 * flat, alpha, damping)
        np.testing.assert_allclose(fused, want * flat, rtol=1e-6)
    image = jnp.abs(features(c=1))
    np.testing.assert_allclose(fuse_images(image, image, 0.5, 1.0), image, rtol=1e-6)


def test_damping_draws_the_weight_to_one_half_borders_included():
    ir, vis = features(seed=1), 0.3 * features(seed=2)
    for damping in (0.1, 1.0, 1e4):
        weight = infrared_weight(ir, vis, damping)
        want = ref.infrared_weight(ir, vis, damping)
        np.testing.assert_allclose(weight[..., 0], want, rtol=1e-5)
    np.testing.assert_allclose(weight, np.full(weight.shape, 0.5), atol=1e-3)
