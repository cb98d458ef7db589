"""AdamW in groups with their own rate and decay, and the learning rate's course over a run."""

import math
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import ArrayLike, PyTree

from flax_sd.config import OptimConfig
from flax_sd.errors import UserError

MAIN, TEXT_ENCODER = "main", "text_encoder"  # the groups
POLYNOMIAL_END = 1e-7  # lr_end of diffusers' get_polynomial_decay_schedule_with_warmup


def group_of(path: str) -> str:
    """The group of a leaf by its dotted path: text_encoder and text_encoder_2, or the main one."""
    return TEXT_ENCODER if path.startswith("text_encoder") else MAIN


def make_optimizer(
    cfg: OptimConfig, total_steps: int, label: Callable[[str], str] = group_of
) -> optax.GradientTransformation:
    """Builds AdamW (Loshchilov & Hutter 2019, alg. 2), stepped as torch.optim.AdamW.

    First the gradient of all groups together is clipped to `max_grad_norm`; then each group has its
    own learning rate and weight decay.

    Args:
      cfg: the rates, decays and schedule.
      total_steps: where the schedule ends.
      label: the group (`MAIN` or `TEXT_ENCODER`) of a leaf, from its dotted path in the tree.

    Raises:
      UserError: the schedule cannot fall from this learning rate.
    """
    if cfg.schedule == "polynomial" and cfg.learning_rate <= POLYNOMIAL_END:
        raise UserError(
            f"optim.learning_rate is {cfg.learning_rate:g}; schedule polynomial falls to "
            f"{POLYNOMIAL_END:g}, so it must be larger"
        )

    def labels(params: PyTree) -> PyTree:
        def label_of(path: jax.tree_util.KeyPath, _: object) -> str:
            return label(jax.tree_util.keystr(path, simple=True, separator="."))

        return jax.tree_util.tree_map_with_path(label_of, params)

    groups: dict[Hashable, optax.GradientTransformation] = {
        group: _adamw(cfg, total_steps, group) for group in (MAIN, TEXT_ENCODER)
    }
    by_group = optax.partition(groups, labels)
    if not cfg.max_grad_norm:
        return by_group
    return optax.chain(clip_by_global_norm(cfg.max_grad_norm), by_group)


def learning_rate_at(cfg: OptimConfig, step: int, total_steps: int, group: str = MAIN) -> float:
    """The learning rate of update number `step`, counted from 0."""
    return _peak_rate(cfg, group) * rate_factor(cfg, min(step, total_steps), total_steps)


def rate_factor(cfg: OptimConfig, step: int, total_steps: int) -> float:
    """The share of the peak rate at a step: diffusers' `optimization.py`, schedule by schedule."""
    warmup = cfg.warmup_steps
    if cfg.schedule == "constant":
        return 1.0
    if step < warmup:
        return step / max(1, warmup)
    if cfg.schedule == "constant_with_warmup":
        return 1.0
    decay_steps = max(1, total_steps - warmup)
    if cfg.schedule == "linear":
        return max(0.0, (total_steps - step) / decay_steps)
    progress = (step - warmup) / decay_steps
    if cfg.schedule == "cosine":
        cycles = 0.5 if cfg.cycles is None else cfg.cycles
        return max(0.0, 0.5 * (1 + math.cos(math.pi * cycles * 2 * progress)))
    if cfg.schedule == "cosine_with_restarts":
        cycles = 1.0 if cfg.cycles is None else cfg.cycles
        wave = 0.5 * (1 + math.cos(math.pi * ((cycles * progress) % 1)))
        return 0.0 if progress >= 1 else max(0.0, wave)
    end = POLYNOMIAL_END / cfg.learning_rate
    return end if step > total_steps else (1 - end) * (1 - progress) ** cfg.power + end


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales a gradient g by min(1, max_norm / (‖g‖ + 1e-6)), as torch's clip_grad_norm_."""

    def update(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
        scale = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * scale, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def scale_by_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """m̂ / (√v̂ + ε) of Adam (Kingma & Ba 2015, alg. 1).

    Unlike optax's, the bias corrections 1 - βᵗ are exact to float32: 1 - 0.999 in float32 is off by
    1.3e-5, which would be 6e-6 of every first update.
    """

    def init(params: PyTree) -> optax.ScaleByAdamState:
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in "mv")  # two, so both can be donated
        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)

    def update(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.nu, updates)
        c1, c2 = _one_minus_power(beta1, count), jnp.sqrt(_one_minus_power(beta2, count))
        scaled = jax.tree.map(lambda m, v: m / c1 / (jnp.sqrt(v) / c2 + epsilon), mu, nu)
        return scaled, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def _one_minus_power(beta: float, count: jax.Array) -> jax.Array:
    """1 - βᵗ without cancellation."""
    return -jnp.expm1(count * math.log(beta)) if beta else jnp.ones(())


def _adamw(cfg: OptimConfig, total_steps: int, group: str) -> optax.GradientTransformation:
    """The update of one group: -lr · (m̂ / (√v̂ + ε) + decay · θ)."""
    own_decay = cfg.text_encoder_weight_decay if group == TEXT_ENCODER else None
    # A table worked out in float64: float32 arithmetic would miss restarts by a step.
    rates = [learning_rate_at(cfg, step, total_steps, group) for step in range(total_steps + 1)]
    table = np.asarray(rates, np.float32)

    def schedule(count: ArrayLike) -> jax.Array:
        return jnp.asarray(table)[jnp.minimum(count, total_steps)]

    return optax.chain(
        scale_by_adam(cfg.beta1, cfg.beta2, cfg.epsilon),
        optax.add_decayed_weights(cfg.weight_decay if own_decay is None else own_decay),
        optax.scale_by_learning_rate(schedule),
    )


def _peak_rate(cfg: OptimConfig, group: str) -> float:
    own_rate = cfg.text_encoder_learning_rate if group == TEXT_ENCODER else None
    return cfg.learning_rate if own_rate is None else own_rate
