"""Conditions that are always true, whatever number they are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hkdnet_jax.ops import barriers


@pytest.mark.parametrize("number", [0.0, -0.0, -1.5, np.inf, np.nan])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_barrier_changes_nothing(number, dtype):
    x, number = jnp.arange(5.0), jnp.asarray(number, dtype)
    np.testing.assert_array_equal(barriers.after(x, number), x)
    got = barriers.separate(number, lambda a, b: a * b, x, x)
    np.testing.assert_array_equal(got, x * x)
    made = barriers.zeros((2, 3), dtype, number)
    assert made.dtype == dtype
    np.testing.assert_array_equal(made, np.zeros((2, 3)))


def test_the_compiler_keeps_it():
    """Neither folds it away nor fuses across it."""

    def function(x):
        half = barriers.separate(x[0], lambda x: x + 1.0, x)
        return half[:3] * half[3:]

    x = jnp.arange(6.0)
    program = jax.jit(function).lower(x).compile()
    assert " conditional(" in program.as_text()
    np.testing.assert_array_equal(program(x), (x[:3] + 1) * (x[3:] + 1))


def test_zeros_are_not_a_constant():
    """Which the compiler would make before all else."""

    def text(function):
        return jax.jit(function).lower(jnp.ones(4)).compile().as_text()

    assert "popcnt" in text(lambda x: barriers.zeros((8,), jnp.float32, jnp.sum(x)))
    assert "popcnt" not in text(lambda x: jnp.zeros(8) * jnp.sum(x))
