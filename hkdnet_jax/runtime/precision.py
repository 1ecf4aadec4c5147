"""What the networks compute in: dtypes, and how exact float32 products are.

Left to itself, XLA rounds their factors to bfloat16 on a TPU and to TF32 on a recent
NVIDIA GPU.  Here every operation says what it takes, and takes FULL unless it is told
otherwise.  A CPU computes the same whatever it is told.
"""

from collections.abc import Callable
from typing import Any

import jax

DTYPES = ("float32", "bfloat16")
# Names of jax.lax.Precision, the most exact first; `default` is XLA's own choice.
PRECISIONS = ("highest", "high", "default")
FULL = "highest"


def at(precision: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with a precision for those of its products that state none.

    Its backward pass has it too, wherever that is traced, which matters to library
    functions with a gradient of their own.

    Args:
      precision: one of PRECISIONS.
      function: of positional arrays.
    """

    @jax.custom_vjp
    def call(*args):
        with jax.default_matmul_precision(precision):
            return function(*args)

    def forward(*args):
        with jax.default_matmul_precision(precision):
            return jax.vjp(function, *args)

    def backward(pull_back, gradient):
        with jax.default_matmul_precision(precision):
            return pull_back(gradient)

    call.defvjp(forward, backward)
    return call
