"""Implementations of position attention: which is taken where, and that all agree."""

import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_fixtures import features, inner_jaxprs, numpy_average, separate, sizes
from jax.experimental.pallas import tpu as pallas_tpu

from hkdnet_jax.ops import position_attention as module
from hkdnet_jax.ops.position_attention import (
    attention,
    has_kernel,
    position_attention,
)
from hkdnet_jax.runtime import sharding


@pytest.mark.parametrize("softmax", ["row", "joint"])
def test_materialized_is_the_whole_matrix(softmax):
    x = jax.ShapeDtypeStruct((1, 20, 30, 4), jnp.float32)
    attend = functools.partial(position_attention, softmax=softmax)
    whole = functools.partial(attend, implementation="materialized")
    assert max(sizes(jax.make_jaxpr(whole)(x).jaxpr)) == 600**2
    x = features()
    np.testing.assert_allclose(whole(x), attend(x, block=4), rtol=1e-5, atol=1e-6)


# Fewer positions than a tile, some tiles and a part, whole tiles; pooled keys.
@pytest.mark.parametrize("h,w,k,depth", [(5, 7, 5, 4), (23, 31, 9, 8), (16, 32, 16, 4)])
def test_tpu_kernel_interpreted(h, w, k, depth):
    query, key = features(h=h, w=w, c=depth), features(h=k, w=w, c=depth, seed=1)
    value, cotangent = features(h=k, w=w, c=8, seed=2), features(h=h, w=w, c=8, seed=3)

    def run(implementation):
        def loss(*args):
            out = attention(*args, implementation=implementation)
            return jnp.sum(out * cotangent), out

        gradients, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(
            query, key, value
        )
        return out, *gradients

    want = run("materialized")
    with pallas_tpu.force_tpu_interpret_mode():
        got = run("flash")
    # Both sides are float32, and gradients pass through more sums: each CPU rounds them
    # in its own order (2.2e-6 of the largest seen in a gradient).
    for a, b, rtol in zip(got, want, (2e-6, 1e-5, 1e-5, 1e-5), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


def lowered(platform, dtype=jnp.float32, **options):
    """The gradient's program for a platform, as text; nothing is compiled."""
    x = jax.ShapeDtypeStruct((1, 32, 32, 8), dtype)
    attend = functools.partial(position_attention, **options)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(attend(x).astype(jnp.float32))))
    return gradient.trace(x).lower(lowering_platforms=(platform,)).as_text()


def test_auto_is_the_kernel_on_a_tpu_alone():
    assert len(re.findall("@tpu_custom_call", lowered("tpu"))) == 3  # o; dk, dv; dq
    for others in (
        lowered("tpu", implementation="blocked"),
        lowered("tpu", softmax="joint"),
        lowered("cpu"),
        lowered("cuda"),
    ):
        assert "tpu_custom_call" not in others


def test_no_kernel_is_traced_for_a_mesh_of_cpus():
    """On one that may be of TPUs `auto` is the kernel; see the test above."""
    x = jax.ShapeDtypeStruct((1, 32, 32, 8), jnp.float32)
    on_cpu = sharding.on_mesh(position_attention, sharding.mesh_over(jax.devices()[:1]))
    lowered = jax.jit(on_cpu).trace(x).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" not in lowered.as_text()


def use_device(monkeypatch, platform, version="", capability="8.0"):
    """Makes jax seem to have one device of another platform."""
    client = types.SimpleNamespace(platform_version=version)
    device = types.SimpleNamespace(
        platform=platform, client=client, compute_capability=capability
    )
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(jax, "default_backend", lambda: platform)


NVIDIA, AMD = "PJRT C API\ncuda 13000", "PJRT C API\nrocm 60200"


@pytest.mark.parametrize(
    "platform,version,capability,kernels",
    [
        ("cpu", "cpu", None, set()),
        ("tpu", "libtpu", None, {"flash"}),
        ("gpu", NVIDIA, "7.5", set()),
        ("gpu", NVIDIA, "8.0", {"cudnn"}),
        ("gpu", NVIDIA, "10.3", {"cudnn"}),
        ("gpu", AMD, "gfx942", set()),
    ],
)
def test_kernels_of_a_device(monkeypatch, platform, version, capability, kernels):
    use_device(monkeypatch, platform, version, capability)
    assert {kernel for kernel in module.KERNELS if has_kernel(kernel)} == kernels


def test_auto_on_a_gpu(monkeypatch):
    """cuDNN can only be traced where a GPU is: here it is a stand-in."""
    taken = []

    def kernel(queries, keys, values):
        taken.append(queries.shape)
        return jnp.zeros(queries.shape, jnp.float32)

    monkeypatch.setattr(module, "_cudnn", kernel)
    half = features(h=4, w=4, c=8).astype(jnp.bfloat16)

    def trace(x):
        # A new function each time: jax keeps what it has traced.
        return jax.eval_shape(lambda x: position_attention(x), x)

    trace(half)
    for version, capability in ((AMD, "gfx942"), (NVIDIA, "7.5")):
        use_device(monkeypatch, "gpu", version, capability)
        trace(half)
    assert not taken
    use_device(monkeypatch, "gpu", NVIDIA)
    for x in (features(c=8), half[..., :7], jnp.tile(half, 17)):
        trace(x)
    assert not taken  # float32, a depth not divisible by 8, and one above 128
    trace(half)
    assert taken == [(2, 16, 8)]


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_the_block_fills_what_suits_the_platform(monkeypatch, platform):
    use_device(monkeypatch, platform, NVIDIA)
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 600 * 30)
    monkeypatch.setattr(module, "ACCELERATOR_BLOCK_BYTES", 4 * 600 * 50)
    x = jax.ShapeDtypeStruct((1, 20, 30, 4), jnp.float32)
    attend = functools.partial(position_attention, implementation="blocked")
    largest = max(sizes(jax.make_jaxpr(lambda x: attend(x))(x).jaxpr))
    assert largest == 600 * (30 if platform == "cpu" else 50)


def kernel_precisions(jaxpr, inside=False):
    """The precision of each product inside a Pallas kernel."""
    for eqn in jaxpr.eqns:
        if inside and eqn.primitive.name == "dot_general":
            yield eqn.params["precision"]
        for inner in inner_jaxprs(eqn):
            yield from kernel_precisions(
                inner, inside or eqn.primitive.name == "pallas_call"
            )


@pytest.mark.parametrize(
    "dtype,precision,wanted",
    [
        (jnp.float32, "highest", "HIGHEST"),
        (jnp.float32, "high", "HIGHEST"),  # the kernel knows only two
        (jnp.float32, "default", "DEFAULT"),
        (jnp.bfloat16, "highest", "DEFAULT"),  # whose products are exact anyway
    ],
)
def test_precision_of_the_tpu_kernel_in_both_passes(dtype, precision, wanted):
    x = jax.ShapeDtypeStruct((1, 32, 32, 8), dtype)

    def loss(x):
        attend = functools.partial(position_attention, implementation="flash")
        return jnp.sum(attend(x, precision=precision).astype(jnp.float32))

    used = list(kernel_precisions(jax.make_jaxpr(jax.grad(loss))(x).jaxpr))
    assert len(used) >= 2 + 4 + 3  # o; dk, dv; dq
    assert set(used) == {(jax.lax.Precision[wanted],) * 2}


def test_arguments_of_cudnn(monkeypatch):
    """jax's own attention without cuDNN stands in: the same call, computed by XLA."""
    attend = jax.nn.dot_product_attention

    def without_kernel(*args, implementation, **options):
        assert implementation == "cudnn"
        return attend(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", without_kernel)
    args = separate(5, 7)
    got = attention(*args, implementation="cudnn")
    want = numpy_average(*args, "row")
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())
