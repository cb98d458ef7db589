"""What the UNet is conditioned on besides the timestep: the text, and in SDXL size and crop.

Podell et al. 2023 (arXiv 2307.01952), §2.2; diffusers' name for it is `text_time`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from flax_sd.models import layers
from flax_sd.models.unet_config import UNetConfig

SIZED, SCORED = 6, 5  # numbers that the UNet is told: sizes in SDXL, a score in its refiner


class AddedConditions(NamedTuple):
    """What SDXL adds to the timestep's embedding.

    Attributes:
      pooled: [b, d], the pooled text.
      time_ids: [b, 6], height and width of the original image, top and left of the crop, height and
        width of the target, in pixels; in the refiner [b, 5], an aesthetic score in place of the
        last two.
    """

    pooled: jax.Array
    time_ids: jax.Array


class Conditions(NamedTuple):
    """All that the UNet reads besides latents and timesteps.

    Attributes:
      text: [b, n, d], the text states.
      added: None for networks without.
    """

    text: jax.Array
    added: AddedConditions | None = None


class AddedEmbedding(nnx.Module):
    """linear_2(silu(linear_1([pooled, sinusoids of each of the numbers]))).

    The sinusoids are computed in float32, whatever the network's dtype: in bfloat16, to which
    diffusers casts the numbers, 1023 would be 1024.
    """

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        self.config, width = config, config.time_width
        self.linear_1 = layers.linear(config.added_width, width, rngs=rngs)
        self.linear_2 = layers.linear(width, width, rngs=rngs)

    def __call__(
        self, pooled: Float[Array, "b d"], time_ids: Num[Array, "b k"], dtype: jnp.dtype
    ) -> Float[Array, "b c_time"]:
        config = self.config
        sinusoids = layers.timestep_embedding(
            time_ids.reshape(-1),
            config.time_id_width,
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        ).reshape(len(time_ids), -1)
        x = jnp.concatenate([pooled.astype(dtype), sinusoids.astype(dtype)], axis=-1)
        return self.linear_2(jax.nn.silu(self.linear_1(x)))
