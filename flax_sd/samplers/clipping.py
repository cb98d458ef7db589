"""Keeps the predicted x_0 in range: static clipping or dynamic thresholding."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """The fields that keep x̂_0 in range. On latents both ways are off in SD's files."""

    clip_sample: bool = True
    clip_sample_range: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0

    def clip(self) -> "Clip | None":
        """Returns the clipping of these fields; thresholding has precedence."""
        if self.thresholding:
            return Clip(quantile=self.dynamic_thresholding_ratio, largest=self.sample_max_value)
        return Clip(largest=self.clip_sample_range) if self.clip_sample else None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """A function that keeps x̂_0 in range.

    Attributes:
      largest: absolute value, or threshold; a leaf, so that it may be traced.
      quantile: of |x̂_0|: dynamic thresholding; None clips to `largest`.
    """

    largest: Any
    quantile: float | None = dataclasses.field(default=None, metadata={"static": True})

    def __call__(self, x0: Float[ArrayLike, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns x̂_0 within its range.

        Thresholding (Saharia et al. 2022, §2.3) clips each sample to its own quantile s of |x̂_0|,
        kept in [1, largest], and divides by s.
        """
        x0 = jnp.asarray(x0)
        if self.quantile is None:
            return jnp.clip(x0, -self.largest, self.largest)
        s = jnp.quantile(jnp.abs(x0).reshape(len(x0), -1), self.quantile, axis=1)
        s = jnp.minimum(jnp.maximum(s, 1), self.largest)[:, None, None, None]
        return jnp.clip(x0, -s, s) / s
