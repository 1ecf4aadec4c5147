"""DFAB, DFAG and CEA (Eq. 6 to 13) against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest

from hkdnet_jax.models.attention import (
    CEA,
    DFAB,
    DFAG,
    channel_attention,
    dual_frequency_weights,
)

SCALES = {"beta", "position_scale", "channel_scale"}


def features(h=6, w=7, c=4, seed=0):
    values = np.random.default_rng(seed).normal(size=(2, h, w, c))
    return jnp.asarray(values, jnp.float32)


def random_params(module, x, seed=1):
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    return ref.random_params(shapes, seed)


# --- Eq. 6 and 7 ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["spatial", "width", "channel"])
def test_dual_frequency_weights(mode):
    d1, d2 = features(seed=1), features(seed=2)
    got = dual_frequency_weights(d1 * d2, mode)
    np.testing.assert_allclose(got, ref.dual_frequency_weights(d1, d2, mode), rtol=2e-5)
    axes = {"spatial": (1, 2), "width": (2,), "channel": (3,)}[mode]
    np.testing.assert_allclose(np.mean(got, axis=axes), 1.0, rtol=1e-5)


def test_dual_frequency_weights_of_strong_and_bfloat16_features():
    d1, d2 = 100 * features(seed=1), 100 * features(seed=2)
    strong = dual_frequency_weights(d1 * d2, "spatial")
    assert np.all(np.isfinite(strong))
    half = features().astype(jnp.bfloat16)
    weights = dual_frequency_weights(half * half, "spatial")
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(np.mean(weights, axis=(1, 2)), 1.0, rtol=1e-5)


def test_tiling_an_image_leaves_the_spatial_weights_alone():
    # What the factor H * W is for: the attention is as strong at any size.
    d1, d2 = features(seed=1), features(seed=2)
    tiled = dual_frequency_weights(jnp.tile(d1 * d2, (1, 3, 2, 1)), "spatial")
    once = dual_frequency_weights(d1 * d2, "spatial")
    np.testing.assert_allclose(tiled, jnp.tile(once, (1, 3, 2, 1)), rtol=1e-5)


@pytest.mark.parametrize("mode", ["spatial", "width", "channel"])
def test_dfab(mode):
    x = features()
    module = DFAB(2, mode)
    params = random_params(module, x)
    got = jax.jit(module.apply)({"params": params}, x)
    np.testing.assert_allclose(got, ref.dfab(params, x, mode), atol=1e-4)


def test_dfag():
    x = features()
    module = DFAG(2, 2, "spatial")
    params = random_params(module, x)
    assert set(params) == {"dfab1", "dfab2", "conv"}
    got = jax.jit(module.apply)({"params": params}, x)
    np.testing.assert_allclose(got, ref.dfag(params, x, "spatial"), atol=5e-4)


def test_delta_starts_at_zero():
    x = features()
    delta = jax.jit(lambda key: DFAB(2, "spatial").init(key, x)["params"]["delta"])
    assert delta(jax.random.key(0)) == 0.0


# --- Eq. 12 and 13 --------------------------------------------------------------


@pytest.mark.parametrize("mode", ["row", "joint"])
def test_channel_attention(mode):
    x = features()
    want = ref.channel_attention(x, mode)
    np.testing.assert_allclose(channel_attention(x, mode), want, atol=1e-5)


def test_channel_attention_does_not_depend_on_the_image_size():
    x = features()
    tiled = channel_attention(jnp.tile(x, (1, 2, 3, 1)), "row")
    want = jnp.tile(channel_attention(x, "row"), (1, 2, 3, 1))
    np.testing.assert_allclose(tiled, want, atol=1e-5)


def test_channel_attention_of_bfloat16_keeps_its_softmax_in_float32():
    # 300 equal channels: weights of 1/300 summed in bf16 would miss the mean by far.
    out = channel_attention(jnp.full((1, 3, 3, 300), 2.0, jnp.bfloat16), "row")
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), 2.0, rtol=0.01)


def test_channel_attention_refuses_another_mode():
    with pytest.raises(ValueError, match=r"row or joint.*'column'"):
        channel_attention(features(), "column")


# --- CEA ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gamma,position,channel",
    [(0.7, "row", "row"), (0.2, "joint", "row"), (0.7, "row", "joint")],
)
def test_cea(gamma, position, channel):
    x = features()
    module = CEA(gamma, position, channel)
    params = random_params(module, x)
    got, out = jax.jit(module.apply)({"params": params}, x)
    want = ref.cea(params, np.asarray(x), gamma, position, channel)
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert set(out) == {"corner", "position", "channel", "corner_mask"}

    # Each named intermediate is its own module: Eq. 9, 11 and 13.
    f_b = ref.dense(params["conv_in"], np.asarray(x))
    mask = ref.corner_mask(f_b, gamma)
    np.testing.assert_array_equal(out["corner_mask"], mask)
    b = ref.dense(params["conv_corner"], f_b)
    terms = {
        "corner": params["beta"] * b * mask,
        "position": params["position_scale"] * ref.position_attention(f_b, position),
        "channel": params["channel_scale"] * ref.channel_attention(f_b, channel),
    }
    for name, term in terms.items():
        np.testing.assert_allclose(out[name], term + f_b, atol=1e-4, err_msg=name)


def test_cea_scales_start_at_zero():
    x = features()

    def scales(key):
        params = CEA(0.7, "row", "row").init(key, x)["params"]
        assert {k for k in params if not k.startswith("conv_")} == SCALES
        return [params[name] for name in SCALES]

    assert jax.jit(scales)(jax.random.key(0)) == [0.0, 0.0, 0.0]


def test_cea_of_a_flat_image_has_no_corner():
    x = jnp.full((1, 6, 7, 4), 0.5)
    module = CEA(0.7, "row", "row")
    params = random_params(module, x)
    _, out = jax.jit(module.apply)({"params": params}, x)
    np.testing.assert_array_equal(out["corner_mask"], np.zeros(x.shape))
