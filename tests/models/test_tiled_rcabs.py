"""A stack of RCABs in tiles is the plain stack, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest

from hkdnet_jax.measuring.hlo import collectives
from hkdnet_jax.models import tiled_rcabs
from hkdnet_jax.models.blocks import ResidualGroup
from hkdnet_jax.ops import winograd
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


@pytest.mark.parametrize("remat", ["none", "convs", "full"])
def test_in_tiles_is_the_plain_stack(plain, remat):
    x, params, want = plain
    assert tiled_rcabs.pays(x, jnp.float32, None)
    got = program(group(remat))(x, params, x)
    assert_close(got, want, 1e-5)
    np.testing.assert_allclose(got[0], ref.residual_group(params, x), atol=5e-5)


@pytest.mark.parametrize("devices", [2, 4])
def test_devices_share_the_batch(plain, monkeypatch, devices):
    """Each works on its own images, and only gradients are exchanged.

    That goes for the stack in tiles, and for the convolution after it, whose weight
    gradient goes through the images chunk by chunk.
    """
    _, params, _ = plain
    monkeypatch.setattr(winograd, "_CACHED_BYTES", 1)
    x, mesh = features(n=2 * devices), sharding.make_mesh(devices)
    run = program(group())
    want = run(x, params, x)
    split, everywhere = sharding.split_batch(mesh), sharding.replicated(mesh)
    places = (split, everywhere, split)
    shared = jax.jit(sharding.on_mesh(run, mesh), in_shardings=places)
    compiled = shared.lower(x, params, x).compile()
    found = collectives(compiled.as_text())
    assert [one["kind"] for one in found] == ["all-reduce"]
    trained = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert found[0]["bytes"] == trained
    got = compiled(*map(jax.device_put, (x, params, x), places))
    assert len(got[0].sharding.device_set) == devices
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


def test_what_a_device_holds_decides():
    told = []

    def ask(number):
        image = jax.ShapeDtypeStruct((number, 128, 128, 32), jnp.float32)
        told.append(tiled_rcabs.pays(image, jnp.float32, None))

    for number in (4, 5, 8):
        sharding.on_mesh(ask, sharding.make_mesh(4))(number)
    assert told == [True, False, False]


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
