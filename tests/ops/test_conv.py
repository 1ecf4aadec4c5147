"""The one convolution: values, its own gradients, scans, bf16."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from jax import lax

from hkdnet_jax.ops.conv import Conv1x1, Conv3x3, conv3x3, conv3x3_reflect

CONVS = {"zero": conv3x3, "reflect": conv3x3_reflect}


def arrays(n=2, h=5, w=7, i=3, o=4, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(n, h, w, i)), dtype)
    kernel = jnp.asarray(rng.normal(size=(3, 3, i, o)), dtype)
    cotangent = jnp.asarray(rng.normal(size=(n, h, w, o)), dtype)
    return x, kernel, cotangent


def plain(padding):
    """The same convolution as jax itself differentiates it."""

    def conv(x, kernel):
        mode = {"zero": "constant", "reflect": "reflect"}[padding]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=numbers
        )

    return conv


def assert_same_gradients(got, want, rtol=1e-5):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        np.testing.assert_allclose(g, w, rtol=0, atol=rtol * np.max(np.abs(w)))


@pytest.mark.parametrize("padding", CONVS)
@pytest.mark.parametrize("h,w", [(5, 7), (2, 3), (2, 2)])
def test_values_are_those_of_numpy(padding, h, w):
    x, kernel, _ = arrays(h=h, w=w)
    want = ref.conv3x3(x, kernel, padding=padding)
    np.testing.assert_allclose(CONVS[padding](x, kernel), want, rtol=0, atol=2e-5)


def test_values_on_a_single_pixel():
    x, kernel, _ = arrays(h=1, w=1)
    want = np.asarray(x[:, 0, 0]) @ np.asarray(kernel[1, 1])
    np.testing.assert_allclose(conv3x3(x, kernel)[:, 0, 0], want, atol=1e-5)


@pytest.mark.parametrize("padding", CONVS)
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_gradients_are_those_of_jax(padding, jitted):
    x, kernel, cotangent = arrays()

    def gradients(conv):
        def loss(x, kernel):
            return jnp.sum(conv(x, kernel) * cotangent)

        grad = jax.grad(loss, (0, 1))
        return (jax.jit(grad) if jitted else grad)(x, kernel)

    assert_same_gradients(gradients(CONVS[padding]), gradients(plain(padding)))


@pytest.mark.parametrize("padding", CONVS)
def test_gradients_inside_a_scan(padding):
    x, _, cotangent = arrays(i=3, o=3)
    kernels = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3, 3, 3, 3)) / 5)

    def gradients(conv):
        def loss(x, kernels):
            def body(carry, kernel):
                return jnp.tanh(conv(carry, kernel)), None

            return jnp.sum(lax.scan(body, x, kernels)[0] * cotangent)

        return jax.jit(jax.grad(loss, (0, 1)))(x, kernels)

    assert_same_gradients(gradients(CONVS[padding]), gradients(plain(padding)))


@pytest.mark.parametrize("h,w", [(5, 7), (2, 3), (1, 1), (4, 65), (2, 130)])
@pytest.mark.parametrize("i,o", [(32, 32), (40, 33), (31, 64)])
def test_many_channels(h, w, i, o):
    """From 32 on, the CPU's convolution is stated with one more column."""
    x, kernel, cotangent = arrays(1, h, w, i, o)

    def results(conv):
        def loss(x, kernel):
            out = conv(x, kernel)
            return jnp.sum(out * cotangent), out

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, kernel)

    (_, got), got_gradients = results(conv3x3)
    (_, want), gradients = results(plain("zero"))
    assert_same_gradients((got, got_gradients), (want, gradients))


def test_weight_gradient_for_accelerators_is_the_same():
    # Only the CPU's branch runs here: the other one is compared by itself.
    from hkdnet_jax.ops import conv

    x, _, cotangent = arrays()
    assert_same_gradients(
        conv._kernel_gradient_default(x, cotangent),
        conv._kernel_gradient_cpu(x, cotangent),
    )


@pytest.mark.parametrize("padding", CONVS)
def test_bfloat16(padding):
    x, kernel, cotangent = arrays(dtype=jnp.bfloat16)

    def loss(x, kernel):
        out = CONVS[padding](x, kernel)
        assert out.dtype == jnp.bfloat16
        return jnp.sum((out * cotangent).astype(jnp.float32))

    got = jax.jit(jax.grad(loss, (0, 1)))(x, kernel)
    assert {g.dtype for g in got} == {jnp.dtype(jnp.bfloat16)}
    wide = [a.astype(jnp.float32) for a in (x, kernel)]

    def wide_loss(x, kernel):
        out = plain(padding)(x, kernel)
        return jnp.sum(out * cotangent.astype(jnp.float32))

    want = jax.grad(wide_loss, (0, 1))(*wide)
    got = [g.astype(jnp.float32) for g in got]
    assert_same_gradients(got, want, rtol=0.02)


@pytest.mark.parametrize("padding", CONVS)
def test_module_adds_the_bias_and_keeps_float32_parameters(padding):
    x, _, _ = arrays()
    module = Conv3x3(4, padding)
    params = module.init(jax.random.key(0), x)["params"]
    assert params["kernel"].shape == (3, 3, 3, 4)
    np.testing.assert_array_equal(params["bias"], np.zeros(4))
    params = {**params, "bias": jnp.arange(4.0)}
    want = ref.conv(params, x, padding)
    np.testing.assert_allclose(module.apply({"params": params}, x), want, atol=1e-5)

    half = Conv3x3(4, padding, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), x)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    out = half.apply({"params": params}, x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), want, atol=0.06)


@pytest.mark.parametrize("layer", [Conv3x3(4), Conv1x1(4)])
def test_parameters_of_another_shape_are_refused(layer):
    x, kernel, _ = arrays()
    if isinstance(layer, Conv1x1):
        kernel = kernel[0, 0]
    params = {"kernel": kernel, "bias": jnp.zeros(4)}
    assert layer.apply({"params": params}, x).shape == (*x.shape[:3], 4)
    for name in params:
        wrong = {**params, name: params[name][..., :3]}
        with pytest.raises(flax.errors.ScopeParamShapeError, match=name):
            layer.apply({"params": wrong}, x)
    with pytest.raises(flax.errors.ScopeParamNotFoundError, match="bias"):
        layer.apply({"params": {"kernel": kernel}}, x)


@pytest.mark.parametrize("make", [lambda: Conv3x3(32), lambda: Conv1x1(32)])
def test_initial_kernels_have_a_third_of_the_he_variance_over_two(make):
    # PyTorch's default, uniform in +- 1 / sqrt(fan_in): variance 1 / (3 fan_in).
    x = jnp.zeros((1, 3, 3, 64))
    kernel = make().init(jax.random.key(0), x)["params"]["kernel"]
    fan_in = kernel.size // 32
    assert np.max(np.abs(kernel)) <= 1.0 / np.sqrt(fan_in)
    np.testing.assert_allclose(np.var(kernel) * 3 * fan_in, 1.0, atol=0.08)
