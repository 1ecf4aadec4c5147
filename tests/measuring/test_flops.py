"""Counted operations against hand-worked numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from hkdnet_jax.measuring import flops
from hkdnet_jax.models.blocks import ResidualGroup
from hkdnet_jax.ops.conv import conv3x3
from hkdnet_jax.ops.position_attention import position_attention

X = jax.ShapeDtypeStruct((2, 8, 10, 6), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((3, 3, 6, 4), jnp.float32)
CONV = 2 * (3 * 3 * 6) * (2 * 8 * 10 * 4)  # multiply and add for each product


def test_a_convolution():
    assert flops.count(conv3x3, X, KERNEL) == CONV


def test_a_convolution_forward_and_backward():
    def loss(x, kernel):
        return jnp.sum(conv3x3(x, kernel) ** 2)

    # The two gradients have as many products as the convolution itself, but for the
    # border: each is stated as a convolution whose window may reach over the edge.
    both = flops.count(jax.grad(loss, argnums=(0, 1)), X, KERNEL)
    assert both == pytest.approx(3 * CONV, rel=0.3)


@pytest.mark.parametrize("batch", [(), (5,)])
def test_a_matrix_product(batch):
    a = jax.ShapeDtypeStruct((*batch, 3, 7), jnp.float32)
    b = jax.ShapeDtypeStruct((*batch, 7, 4), jnp.float32)
    expected = 2 * 3 * 7 * 4 * (batch[0] if batch else 1)
    assert flops.count(jnp.matmul, a, b) == expected


def test_a_loop_counts_as_often_as_it_turns():
    def run(x, matrices):
        return lax.scan(lambda c, m: (c @ m, None), x, matrices)[0]

    x = jax.ShapeDtypeStruct((3, 7), jnp.float32)
    matrices = jax.ShapeDtypeStruct((11, 7, 7), jnp.float32)
    assert flops.count(run, x, matrices) == 11 * 2 * 3 * 7 * 7


def test_of_a_condition_the_dearest_branch_counts():
    def run(flag, x):
        return lax.cond(flag, lambda x: (x @ x) @ x, lambda x: x @ x, x)

    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    x = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    assert flops.count(run, flag, x) == 2 * (2 * 4**3)


def test_of_the_branches_of_the_platforms_the_default_counts():
    def run(x):
        return lax.platform_dependent(
            x, cpu=lambda x: (x @ x) @ x, default=lambda x: x @ x
        )

    assert flops.count(run, jax.ShapeDtypeStruct((4, 4), jnp.float32)) == 2 * 4**3


@pytest.mark.parametrize("rcabs", [2, 5])
def test_a_residual_group_grows_with_its_blocks(rcabs):
    group = ResidualGroup(rcabs, reduction=2)
    x = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32)
    params = jax.eval_shape(group.init, jax.random.key(0), x)
    conv = 2 * (9 * 4) * (8 * 8 * 4)
    gate = 2 * (4 * 2 + 2 * 4)
    expected = rcabs * (2 * conv + gate) + conv
    assert flops.count(group.apply, params, x) == expected


def test_a_kernel_counts_as_often_as_its_grid_has_places():
    x = jax.ShapeDtypeStruct((2, 32, 32, 8), jnp.float32)
    kernel = flops.count(partial(position_attention, implementation="flash"), x)
    # Two products of each query with each of the 1024 keys, 8 channels.
    assert kernel == 2 * (2 * 1024**2 * 8 * 2)
