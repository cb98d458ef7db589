"""Distances between outputs and targets, for each value.

The pseudo-Huber family is that of sd-scripts (`library/train_util.py`, `conditional_loss`): for
differences above c it grows slower than the square, and c may depend on the timestep.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from flax_sd.config.loss import LossConfig
from flax_sd.diffusion.schedule import NoiseSchedule


class Distance(NamedTuple):
    """d², |d|, or 2k (√(d² + c²) - c): k = c is near d² for small d, k = 1 near 2|d| for large.

    Attributes:
      error: "l2", "l1", "huber" (k = c) or "smooth_l1" (k = 1).
      c: of each timestep, float32 [T]; None for l2 and l1.
    """

    error: str
    c: np.ndarray | Array | None

    @classmethod
    def of(cls, schedule: NoiseSchedule, cfg: LossConfig) -> "Distance":
        """Reads it from a config."""
        huber = cfg.error in ("huber", "smooth_l1")
        return cls(cfg.error, huber_c(schedule, cfg) if huber else None)

    def __call__(
        self, difference: Float[Array, "b *d"], t: Int[Array, " b"]
    ) -> Float[Array, "b *d"]:
        """Returns the distance of each value."""
        if self.c is None:
            return jnp.square(difference) if self.error == "l2" else jnp.abs(difference)
        c = jnp.asarray(self.c)[t].reshape(t.shape + (1,) * (difference.ndim - 1))
        slope = c if self.error == "huber" else 1.0
        return 2 * slope * (jnp.sqrt(jnp.square(difference) + c**2) - c)


def huber_c(schedule: NoiseSchedule, cfg: LossConfig) -> Float32[np.ndarray, " T"]:
    """Returns c of each timestep."""
    a, end = np.asarray(schedule.alphas_cumprod), np.float32(cfg.huber_c)
    if cfg.huber_schedule == "constant":
        return np.full(a.shape, end)
    if cfg.huber_schedule == "exponential":
        return (cfg.huber_c ** (np.arange(len(a)) / len(a))).astype(np.float32)
    # 1/(1 + σ)² with σ = √((1 - ᾱ)/ᾱ), multiplied out so that pure noise gives 0.
    clean = a / np.square(np.sqrt(a) + np.sqrt(1 - a))
    return (1 - end) * clean + end
