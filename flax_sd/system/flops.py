"""Floating-point operations of a function, counted over its jaxpr.

XLA's own cost analysis counts the body of a loop once; here a scan's body counts length times.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Jaxpr


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Counts the FLOPs of matrix products and convolutions, two a multiply-add, and nothing else.

    Args:
      args: arrays, or shapes of arrays: nothing is computed.
    """
    jitted: Any = function if hasattr(function, "trace") else jax.jit(function)
    return _of_jaxpr(jitted.trace(*args).jaxpr.jaxpr)


def _of_jaxpr(jaxpr: Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        out, shape = equation.outvars[0].aval.shape, equation.invars[0].aval.shape
        return 2 * math.prod(out) * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    if name == "cond":  # one branch is taken: the algorithm that a platform chooses, for one
        return max(_of_jaxpr(branch.jaxpr) for branch in params["branches"])
    return _repeats(name, params) * sum(_of_jaxpr(inner) for inner in _inner_jaxprs(params))


def _repeats(name: str, params: dict[str, Any]) -> int:
    """Returns how often the inside of an equation runs."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":  # once on every device
        return params["mesh"].size
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    return 1


def _of_convolution(equation: Any) -> int:
    """Counts, for each output value, the whole kernel, without the zeros between dilated inputs."""
    out = equation.outvars[0].aval
    params, kernel = equation.params, equation.invars[1].aval.shape
    spec = params["dimension_numbers"].rhs_spec  # (out, in, spatial …)
    products = math.prod(out.shape) * math.prod(kernel) // kernel[spec[0]]
    return 2 * products // math.prod(params["lhs_dilation"])


def _inner_jaxprs(params: dict[str, Any]) -> list[Jaxpr]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                found.append(inner)
    return found
