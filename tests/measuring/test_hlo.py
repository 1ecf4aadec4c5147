"""Collectives read from a compiled program's text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hkdnet_jax.measuring.hlo import collectives
from hkdnet_jax.runtime import sharding

LOOP = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%condition (p.1: (s32[], f32[3,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(20)
  %p.1 = (s32[], f32[3,4]) parameter(0)
  %i = s32[] get-tuple-element(%p.1), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (p.2: (s32[], f32[3,4])) -> (s32[], f32[3,4]) {
  %p.2 = (s32[], f32[3,4]) parameter(0)
  %x = f32[3,4]{1,0} get-tuple-element(%p.2), index=1
  %all-reduce.1 = (f32[3,4]{1,0:T(8,128)S(1)}, bf16[5]{0}) all-reduce(%x, %y), \
to_apply=%add
}

ENTRY %main (arg: f32[3,4]) -> f32[] {
  %arg = f32[3,4]{1,0} parameter(0)
  %while.1 = (s32[], f32[3,4]) while(%t), condition=%condition, body=%body
  %start = (f32[2]{0}, f32[8]{0}) all-gather-start(%z), dimensions={0}
  %done = f32[8]{0} all-gather-done(%start)
  %reduce = f32[]{:T(128)} all-reduce(%v), to_apply=%add
  ROOT %r = f32[] copy(%reduce)
}
"""


def test_loops_count_as_often_as_they_turn():
    arrays, size = 20 * 2 + 1, 20 * (3 * 4 * 4 + 5 * 2) + 4
    assert collectives(LOOP) == [
        {"kind": "all-gather", "count": 1, "bytes": 8 * 4},
        {"kind": "all-reduce", "count": arrays, "bytes": size},
    ]


def test_a_program_without_collectives():
    compiled = jax.jit(lambda x: x @ x).lower(jnp.ones((4, 4))).compile()
    assert collectives(compiled.as_text()) == []


@pytest.mark.parametrize("turns", [1, 6])
def test_a_compiled_program(turns):
    mesh = sharding.make_mesh(4)

    def step(w, x):
        def body(total, _):
            # The sum over the split batch needs a collective in each turn.
            return total + jnp.sum(x * total[None, :], axis=0), None

        return lax.scan(body, w, None, length=turns)[0]

    whole, split = sharding.replicated(mesh), sharding.split_batch(mesh)
    jitted = jax.jit(step, in_shardings=(whole, split), out_shardings=whole)
    compiled = jitted.lower(np.ones(7, np.float32), np.ones((8, 7), np.float32))
    assert collectives(compiled.compile().as_text()) == [
        {"kind": "all-reduce", "count": turns, "bytes": turns * 7 * 4}
    ]
