"""Keeps the predicted x_0 in range: static clipping or dynamic thresholding."""

import dataclasses

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from flax_sd.samplers.timesteps import SpacedConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig(SpacedConfig):
    """The fields that DDPM and DDIM share. On latents both ways are off in SD's files."""

    rescale_betas_zero_snr: bool = False
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0

    def clip(self) -> "Clip":
        """Returns the clipping of these fields; thresholding has precedence."""
        if self.thresholding:
            return Clip(quantile=self.dynamic_thresholding_ratio, largest=self.sample_max_value)
        return Clip(largest=self.clip_sample_range if self.clip_sample else None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """A function that keeps x̂_0 in range."""

    largest: float | None  # absolute value, or threshold; None leaves x̂_0 as it is
    quantile: float | None = None  # of |x̂_0|: dynamic thresholding

    def __call__(self, x0: Float[ArrayLike, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns x̂_0 within its range.

        Thresholding (Saharia et al. 2022, §2.3) clips each sample to its own quantile s of |x̂_0|,
        kept in [1, largest], and divides by s.
        """
        x0 = jnp.asarray(x0)
        if self.largest is None:
            return x0
        if self.quantile is None:
            return jnp.clip(x0, -self.largest, self.largest)
        s = jnp.quantile(jnp.abs(x0).reshape(len(x0), -1), self.quantile, axis=1)
        s = jnp.minimum(jnp.maximum(s, 1), self.largest)[:, None, None, None]
        return jnp.clip(x0, -s, s) / s
