"""Floating-point operations of a function, counted over its jaxpr.

XLA's own cost analysis counts the body of a loop once; here a scan's body counts length times.
"""

import math
from collections.abc import Callable
from typing import Any

import jax


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """FLOPs of matrix products and convolutions, two a multiply-add; the rest is not counted.

    Args:
      args: arrays, or shapes of arrays: nothing is computed.
    """
    jitted: Any = function if hasattr(function, "trace") else jax.jit(function)
    return _of_jaxpr(jitted.trace(*args).jaxpr.jaxpr)


def _of_jaxpr(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, out = equation.primitive.name, equation.outvars[0].aval
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * math.prod(out.shape) * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _of_convolution(equation, out)
    if name == "cond":  # one branch is taken: the algorithm that a platform chooses, for one
        return max(_of_jaxpr(branch.jaxpr) for branch in equation.params["branches"])
    repeats = equation.params["length"] if name == "scan" else 1
    return repeats * sum(_of_jaxpr(inner) for inner in _inner_jaxprs(equation.params))


def _of_convolution(equation: Any, out: Any) -> int:
    """Each output value sees the whole kernel, but for the zeros put between dilated inputs."""
    params, kernel = equation.params, equation.invars[1].aval.shape
    spec = params["dimension_numbers"].rhs_spec  # (out, in, spatial …)
    products = math.prod(out.shape) * math.prod(kernel) // kernel[spec[0]]
    return 2 * products // math.prod(params["lhs_dilation"])


def _inner_jaxprs(params: dict[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                found.append(inner)
    return found
