"""RCAB, residual group and upsampler against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest

from hkdnet_jax.models.blocks import RCAB, ChannelGate, ResidualGroup, Upsampler


def features(h=5, w=6, c=4, seed=0):
    values = np.random.default_rng(seed).normal(size=(2, h, w, c))
    return jnp.asarray(values, jnp.float32)


def run(module, x, seed=1):
    """Random parameters of a module and its output for them."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    params = ref.random_params(shapes, seed)
    return params, jax.jit(module.apply)({"params": params}, x)


def test_rcab():
    x = features()
    params, got = run(RCAB(reduction=2), x)
    np.testing.assert_allclose(got, ref.rcab(params, x), atol=2e-5)
    assert params["gate"]["down"]["kernel"].shape == (4, 2)
    assert params["gate"]["up"]["kernel"].shape == (2, 4)


def test_gate_keeps_a_hidden_unit_where_the_reduction_exceeds_the_width():
    x = features()
    params, got = run(ChannelGate(reduction=16), x)
    assert params["down"]["kernel"].shape == (4, 1)
    ratio = np.asarray(got / x)
    assert np.all((ratio > 0) & (ratio < 1))
    # One gate a channel and image, whatever the position.
    np.testing.assert_allclose(ratio, ratio[:, :1, :1, :] + 0 * ratio, rtol=1e-5)


@pytest.mark.parametrize("rcabs", [1, 3])
def test_residual_group_runs_its_rcabs_in_order(rcabs):
    x = features()
    params, got = run(ResidualGroup(rcabs, reduction=2), x)
    assert params["rcabs"]["rcab"]["conv1"]["kernel"].shape == (rcabs, 3, 3, 4, 4)
    np.testing.assert_allclose(got, ref.residual_group(params, x), atol=5e-5)


def test_initial_rcabs_of_a_group_differ():
    def conv1(key):
        params = ResidualGroup(2, reduction=2).init(key, features())["params"]
        return params["rcabs"]["rcab"]["conv1"]

    stack = jax.jit(conv1)(jax.random.key(0))
    first, second = stack["kernel"]
    assert np.min(np.abs(first - second)) > 0
    np.testing.assert_array_equal(stack["bias"], np.zeros((2, 4)))


def stacked_scans(jaxpr):
    return [eqn.params["length"] for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]


def test_program_does_not_grow_with_the_number_of_rcabs():
    x = features()
    lengths, equations = [], []
    for rcabs in (2, 20):
        module = ResidualGroup(rcabs, reduction=2)
        shapes = jax.eval_shape(module.init, jax.random.key(0), x)
        jaxpr = jax.make_jaxpr(module.apply)(shapes, x).jaxpr
        lengths += stacked_scans(jaxpr)
        equations.append(str(jaxpr).count("\n"))
    assert lengths == [2, 20]
    assert equations[0] == equations[1]


@pytest.mark.parametrize("scale,stages", [(2, 1), (3, 1), (4, 2)])
def test_upsampler(scale, stages):
    x = features(h=3, w=5)
    params, got = run(Upsampler(scale), x)
    assert len(params) == stages
    assert got.shape == (2, 3 * scale, 5 * scale, 4)
    np.testing.assert_allclose(got, ref.upsampler(params, x, scale), atol=2e-5)
