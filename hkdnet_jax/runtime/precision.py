"""The arithmetic of the networks: dtypes, and the precision of float32 products.

By default XLA rounds the factors of these products to bfloat16 on a TPU and to TF32 on
a recent NVIDIA GPU.  In this package every operation states its precision, which is
FULL unless the caller chooses another one.  A CPU computes the same at every precision.
"""

from collections.abc import Callable
from typing import Any

import jax

DTYPES = ("float32", "bfloat16")
# Names of jax.lax.Precision, the most exact first; `default` leaves the choice to XLA.
PRECISIONS = ("highest", "high", "default")
FULL = "highest"


def at(precision: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `function` so that those of its products that state no precision get one.

    The backward pass gets it too, wherever it is traced, which matters for library
    functions with a custom gradient.

    Args:
      precision: one of PRECISIONS.
      function: a function of positional arrays.

    Returns:
      A function of the same arrays.
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
