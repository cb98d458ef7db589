"""The variance of DDPM's noise where the network predicts it, in the second half of its output."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedVariance:
    """The tables of a learned variance.

    Attributes:
      log_small: log β̃_t of each step, float32 [m], where "learned_range" begins.
      log_large: log β_t, float32 [m], where it ends.
      ranged: whether the network predicts a place between these, and not the variance itself.
    """

    log_small: Any  # not a shaped array: transformations put placeholders into pytrees
    log_large: Any
    ranged: bool = dataclasses.field(metadata={"static": True})

    def std(
        self, learned: Float[Array, "b h w c"], i: Int[ArrayLike, ""]
    ) -> Float[Array, "b h w c"]:
        """Returns σ_t; a place interpolates log σ_t² (Nichol & Dhariwal 2021, eq. 15).

        Args:
          learned: what the network predicts of it.
          i: index of the step; may be traced.
        """
        if not self.ranged:
            return jnp.sqrt(learned)
        small, large = jnp.asarray(self.log_small)[i], jnp.asarray(self.log_large)[i]
        place = (learned + 1) / 2
        return jnp.exp((place * large + (1 - place) * small) / 2)
