"""Distances between outputs and targets, for each value.

The pseudo-Huber family is that of sd-scripts (`library/train_util.py`, `conditional_loss`): for
differences above c it grows slower than the square, and c may depend on the timestep.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_sd.config.loss import LossConfig
from flax_sd.diffusion.schedule import NoiseSchedule

Distance = Callable[[Float[Array, "b *d"], Int[Array, " b"]], Float[Array, "b *d"]]


def squared(difference: Float[Array, "b *d"], t: Int[Array, " b"]) -> Float[Array, "b *d"]:
    """Returns d²."""
    return jnp.square(difference)


def absolute(difference: Float[Array, "b *d"], t: Int[Array, " b"]) -> Float[Array, "b *d"]:
    """Returns |d|."""
    return jnp.abs(difference)


def make_distance(schedule: NoiseSchedule, cfg: LossConfig) -> Distance:
    """Returns the distance that the config names."""
    if cfg.error == "l2":
        return squared
    if cfg.error == "l1":
        return absolute
    return _pseudo_huber(schedule, cfg)


def _pseudo_huber(schedule: NoiseSchedule, cfg: LossConfig) -> Distance:
    """Builds 2k (√(d² + c²) - c): k = c is near d² for small d, k = 1 near 2|d| for large."""

    def distance(difference: Float[Array, "b *d"], t: Int[Array, " b"]) -> Float[Array, "b *d"]:
        c = huber_c(schedule, cfg, t).reshape(t.shape + (1,) * (difference.ndim - 1))
        slope = c if cfg.error == "huber" else 1.0
        return 2 * slope * (jnp.sqrt(jnp.square(difference) + c**2) - c)

    return distance


def huber_c(schedule: NoiseSchedule, cfg: LossConfig, t: Int[Array, " b"]) -> Float[Array, " b"]:
    """Returns c at each timestep."""
    if cfg.huber_schedule == "constant":
        return jnp.full(t.shape, cfg.huber_c)
    if cfg.huber_schedule == "exponential":
        return jnp.exp(t * (math.log(cfg.huber_c) / len(schedule.alphas_cumprod)))
    a = jnp.asarray(schedule.alphas_cumprod)[t]
    # 1/(1 + σ)² with σ = √((1 - ᾱ)/ᾱ), multiplied out so that pure noise gives 0.
    clean = a / jnp.square(jnp.sqrt(a) + jnp.sqrt(1 - a))
    return (1 - cfg.huber_c) * clean + cfg.huber_c
