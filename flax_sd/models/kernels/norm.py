"""Group and layer norms that keep their input and two statistics for the backward pass.

Automatic differentiation of the same lines keeps four arrays of the input's size, or computes them
again. Wu & He 2018, arXiv 1803.08494, eq. 1; Ba et al. 2016, arXiv 1607.06450.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal
from jaxtyping import Array, Float

Saved = tuple[Array, Array, Array, Array, Array, bool]
AXES = (1, 3)  # of [b, n, g, k], over which a group's statistics are


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalised(
    x: Float[Array, "b n g k"],
    scale: Float[Array, "g k"],
    bias: Float[Array, "g k"],
    epsilon: float,
    silu: bool,
) -> Float[Array, "b n g k"]:
    """Returns scale · (x - E[x]) / √(Var[x] + ε) + bias, with a group's mean and variance.

    The variance is of two passes: E[x²] - E[x]² loses 1.7e-4 at mean 10. All is float32 within.

    Args:
      silu: applies it to the result.
    """
    return _forward_of(x, scale, bias, epsilon, silu)[0]


def _forward_of(
    x: Array, scale: Array, bias: Array, epsilon: float, silu: bool
) -> tuple[Array, Array, Array]:
    """Returns the result, E[x] and 1 / √(Var[x] + ε)."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, AXES, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide - mean), AXES, keepdims=True) + epsilon)
    y = (wide - mean) * inverse * scale.astype(jnp.float32) + bias.astype(jnp.float32)
    return (y * _sigmoid(y) if silu else y).astype(x.dtype), mean, inverse


def _forward(
    x: CustomVJPPrimal, scale: CustomVJPPrimal, bias: CustomVJPPrimal, epsilon: float, silu: bool
) -> tuple[Array, Saved]:
    y, mean, inverse = _forward_of(x.value, scale.value, bias.value, epsilon, silu)
    trained = scale.perturbed or bias.perturbed
    return y, (x.value, scale.value, bias.value, mean, inverse, trained)


def _backward(
    epsilon: float, silu: bool, saved: Saved, dy: Array
) -> tuple[Array, Array | None, Array | None]:
    x, scale, bias, mean, inverse, trained = saved
    unit = (x.astype(jnp.float32) - mean) * inverse
    dy, weight = dy.astype(jnp.float32), scale.astype(jnp.float32)
    if silu:
        y = unit * weight + bias.astype(jnp.float32)
        gate = _sigmoid(y)
        dy = dy * gate * (1 + y * (1 - gate))
    du = dy * weight
    along = jnp.mean(du * unit, AXES, keepdims=True)
    dx = (inverse * (du - jnp.mean(du, AXES, keepdims=True) - unit * along)).astype(x.dtype)
    if not trained:
        return dx, None, None
    return (
        dx,
        jnp.sum(dy * unit, (0, 1)).astype(scale.dtype),
        jnp.sum(dy, (0, 1)).astype(bias.dtype),
    )


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + jnp.exp(-x))


normalised.defvjp(_forward, _backward, symbolic_zeros=True)
