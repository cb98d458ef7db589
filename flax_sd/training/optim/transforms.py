"""Gradient transforms that optax lacks, or that it computes less exactly."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from flax_sd.system.program import is_off
from flax_sd.training.flat import dotted

Number = float | jax.Array  # the latter in a program


class Beta(NamedTuple):
    """A decay of a mean, with what float32 cannot compute from it: 1 - 0.999 is off by 5e-5."""

    value: Number
    rest: Number  # 1 - value
    log: Number

    @classmethod
    def of(cls, value: float) -> "Beta":
        """Computes both in float64."""
        return cls(value, 1 - value, math.log(value) if value else -math.inf)


NO_MEAN = Beta.of(0.0)


def clip_by_global_norm(max_norm: Number) -> optax.GradientTransformation:
    """Scales a gradient g by min(1, max_norm / (‖g‖ + 1e-6)), as torch's clip_grad_norm_."""

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        scale = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * scale, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def scale_by_adam(beta1: Beta, beta2: Beta, epsilon: Number) -> optax.GradientTransformation:
    """Builds m̂ / (√v̂ + ε) of Adam (Kingma & Ba 2015, alg. 1).

    Unlike optax's, 1 - β and the bias corrections 1 - βᵗ are exact to float32. With β₁ = 0 there is
    no first mean.
    """

    meaned = not is_off(beta1.value)

    def init(params: PyTree) -> optax.ScaleByAdamState:
        mu = jax.tree.map(jnp.zeros_like, params) if meaned else optax.EmptyState()
        nu = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        count = state.count + 1
        mu = updates
        if meaned:
            mu = jax.tree.map(lambda m, g: beta1.value * m + beta1.rest * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2.value * v + beta2.rest * g * g, state.nu, updates)
        c1, c2 = corrections(beta1, beta2, count)
        scaled = jax.tree.map(lambda m, v: m / c1 / (jnp.sqrt(v) / c2 + epsilon), mu, nu)
        kept = mu if meaned else optax.EmptyState()
        return scaled, optax.ScaleByAdamState(count=count, mu=kept, nu=nu)

    return optax.GradientTransformation(init, update)


def corrections(beta1: Beta, beta2: Beta, count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns 1 - β₁ᵗ and √(1 - β₂ᵗ), without cancellation."""
    return _one_minus_power(beta1, count), jnp.sqrt(_one_minus_power(beta2, count))


def by_path(
    change: Callable[[str, jax.Array, jax.Array], jax.Array],
) -> optax.GradientTransformation:
    """Changes each update by change(dotted path, update, parameter)."""

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        changed = jax.tree_util.tree_map_with_path(
            lambda path, u, p: change(dotted(path), u, p), updates, params
        )
        return changed, state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _one_minus_power(beta: Beta, count: jax.Array) -> jax.Array:
    return jnp.ones(()) if is_off(beta.value) else -jnp.expm1(count * beta.log)
