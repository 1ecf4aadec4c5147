"""A stack of RCABs in tiles is the plain stack, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest

from hkdnet_jax.models import tiled_rcabs
from hkdnet_jax.models.blocks import ResidualGroup
from hkdnet_jax.ops.extent import Extent
from hkdnet_jax.runtime import sharding

C = 32


def features(n=2, h=9, w=6, c=C, seed=0):
    values = np.random.default_rng(seed).normal(size=(n, h, w, c))
    return jnp.asarray(values, jnp.float32)


def group(remat="none"):
    return ResidualGroup(2, reduction=8, remat=remat)


def params_of(module, x):
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    return ref.random_params(shapes, 1)


def program(module):
    """(gradient, params, x) -> output and gradients."""

    @jax.jit
    def both(gradient, params, x):
        output, pull = jax.vjp(lambda p, x: module.apply({"params": p}, x), params, x)
        return output, pull(gradient)

    return both


def assert_close(got, want, rtol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


@pytest.fixture(scope="module")
def plain():
    """The stack without tiles: features, parameters, output and gradients."""
    x, module = features(), group()
    params = params_of(module, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled_rcabs, "pays", lambda *args: False)
        return x, params, program(module)(x, params, x)


@pytest.mark.parametrize("remat", ["none", "convs"])
def test_in_tiles_is_the_plain_stack(plain, remat):
    x, params, want = plain
    assert tiled_rcabs.pays(x, jnp.float32, None)
    got = program(group(remat))(x, params, x)
    assert_close(got, want, 1e-5)
    np.testing.assert_allclose(got[0], ref.residual_group(params, x), atol=5e-5)


def test_four_devices_share_the_batch(plain):
    _, params, _ = plain
    x, mesh = features(n=4), sharding.make_mesh(4)
    run = program(group())
    want = run(x, params, x)
    placed = jax.device_put(x, sharding.split_batch(mesh))
    got = run(placed, jax.device_put(params, sharding.replicated(mesh)), placed)
    assert len(got[0].sharding.device_set) == 4
    assert_close(got, want, 1e-5)


def test_where_tiles_do_not_pay():
    x, single = features(), jnp.float32
    assert not tiled_rcabs.pays(features(c=16), single, None)
    assert not tiled_rcabs.pays(x, jnp.bfloat16, None)
    assert not tiled_rcabs.pays(x.astype(jnp.bfloat16), jnp.bfloat16, None)
    assert not tiled_rcabs.pays(x, single, Extent(jnp.array([8]), jnp.array([5])))
    sizes = {(32, 128): True, (32, 129): False, (64, 512): True, (64, 513): False}
    for (channels, side), pay in sizes.items():
        image = jax.ShapeDtypeStruct((1, 128, side, channels), single)
        assert tiled_rcabs.pays(image, single, None) == pay


def test_rows_that_devices_share_take_the_plain_form():
    mesh = sharding.mesh_over(jax.devices()[:4], sharding.HEIGHT)
    told = []
    sharding.on_mesh(
        lambda x: told.append(tiled_rcabs.pays(x, jnp.float32, None)), mesh
    )(features())
    assert told == [False]


def test_other_platforms_have_the_plain_program():
    x, module = features(), group()
    params = params_of(module, x)

    def text(*platforms):
        traced = jax.jit(module.apply).trace({"params": params}, x)
        return traced.lower(lowering_platforms=platforms).as_text()

    assert "stablehlo.convolution" in text("tpu")
    assert text("cpu").count("stablehlo.convolution") == 1  # the one after the stack
    assert "popcnt" in text("cpu") and "popcnt" not in text("tpu")
