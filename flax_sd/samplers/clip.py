"""Keeping the predicted x_0 in range: static clipping or dynamic thresholding."""

import dataclasses

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from flax_sd.samplers.spacing import SpacedConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig(SpacedConfig):
    """The fields that DDPM and DDIM share. On latents both ways are off in SD's files."""

    rescale_betas_zero_snr: bool = False
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0


def limit(x0: Float[ArrayLike, "b h w c"], config: ClipConfig) -> Float[Array, "b h w c"]:
    """x̂_0 clipped as the config says; thresholding goes before clipping.

    Thresholding (Saharia et al. 2022, §2.3) clips each sample to its own quantile s of |x̂_0|, kept
    in [1, sample_max_value], and divides by s.
    """
    x0 = jnp.asarray(x0)
    if config.thresholding:
        flat = jnp.abs(x0).reshape(len(x0), -1)
        s = jnp.quantile(flat, config.dynamic_thresholding_ratio, axis=1)
        s = jnp.minimum(jnp.maximum(s, 1), config.sample_max_value)[:, None, None, None]
        return jnp.clip(x0, -s, s) / s
    if config.clip_sample:
        return jnp.clip(x0, -config.clip_sample_range, config.clip_sample_range)
    return x0
