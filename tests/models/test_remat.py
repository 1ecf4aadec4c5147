"""What blocks keep for their backward pass changes memory, not the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from train_fixtures import student_config

from hkdnet_jax.models.attention import DFAG
from hkdnet_jax.models.blocks import ResidualGroup
from hkdnet_jax.models.presets import StudentConfig
from hkdnet_jax.models.remat import REMAT
from hkdnet_jax.training.networks import describe_network

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 12, 4)), jnp.float32)
BLOCKS = {
    "group": lambda remat: ResidualGroup(6, reduction=2, remat=remat),
    "dfag": lambda remat: DFAG(2, 2, "spatial", 0.3, remat=remat),
}


def compiled(name, remat):
    """The gradients of a block and their program."""
    block = BLOCKS[name](remat)
    shapes = jax.eval_shape(block.init, jax.random.key(0), X)["params"]
    params = ref.random_params(shapes, seed=1)

    def loss(params, x):
        return jnp.sum(block.apply({"params": params}, x) ** 2)

    program = jax.jit(jax.grad(loss, (0, 1))).lower(params, X).compile()
    return program(params, X), program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_stay_and_memory_falls(name):
    found = {remat: compiled(name, remat) for remat in REMAT}
    want, _ = found["none"]
    for got, _ in found.values():
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(b).max())
    # XLA's CPU compiler undoes it outside a scan, where it drops the barriers.
    if name == "group":
        memory = [found[remat][1] for remat in ("full", "convs", "none")]
        assert memory == sorted(set(memory))


def test_an_unknown_choice():
    with pytest.raises(ValueError, match=r"model.remat is 'some': .*none, convs, full"):
        StudentConfig(remat="some")


def test_a_model_file_does_not_hold_it():
    """A run may change it between starts, and it is nothing that others load."""
    config = student_config("unused")
    plain = describe_network(config)
    config.model.remat = "full"
    assert describe_network(config) == plain and "remat" not in plain["model"]
