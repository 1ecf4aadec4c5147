"""Floating-point operations of a function, counted in its jaxpr.

A compiler's own count includes the body of a loop only once; here the body of a scan
counts as often as it is run.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def count(function: Callable[..., Any], *args: Any) -> int:
    """Counts the multiplications and additions of convolutions and matrix products.

    Elementwise operations are left out; in these networks they are below one percent.
    Of the branches of a condition, only the most expensive one counts; a `while` loop
    whose number of iterations is not in the program counts once.

    Args:
      function: a function that jax can trace.
      *args: its arguments, arrays or jax.ShapeDtypeStructs.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _of_jaxpr(jaxpr: Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        spec = params["dimension_numbers"].rhs_spec  # (out, in, *window)
        products = math.prod(kernel) // kernel[spec[0]]  # for each output value
        return 2 * products * math.prod(equation.outvars[0].aval.shape)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        products = math.prod(shape[axis] for axis in contracted)
        return 2 * products * math.prod(equation.outvars[0].aval.shape)
    inner = [_of_jaxpr(jaxpr) for jaxpr in _inner_jaxprs(params)]
    if name == "cond":
        # One branch per platform, the default last; the others may add padding.
        return inner[-1] if params.get("branches_platforms") else max(inner)
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid) * sum(inner)
    return params.get("length", 1) * sum(inner)


def _inner_jaxprs(params: dict[str, Any]) -> list[Jaxpr]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, Jaxpr):
                found.append(item)
    return found
