"""The denoising error of an unconditional UNet on images (Ho et al. 2020, eq. 14)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.training.losses.base import Graphs, PixelBatch, Trees, merge, weighted
from flax_sd.training.losses.diffusion import PLAIN, Denoising, DiffusionConfig


class PixelDraws(NamedTuple):
    """The random numbers of a step."""

    dropout: jax.Array | None  # [b, 2], key data for the network's dropout
    timesteps: jax.Array  # [b]
    noise: jax.Array  # [b, h, w, c]
    added: jax.Array | None = None  # [b, h, w, c], the input's noise, if not the target's


class PixelLoss(NamedTuple):
    """E w(t) d(target, unet(x_t, t)), float32; `pixel_loss` builds it."""

    graphs: Graphs
    denoising: Denoising
    compute_dtype: jnp.dtype | None
    dropout: bool

    @property
    def timesteps(self) -> int:
        """Number of timesteps."""
        return self.denoising.timesteps

    def draw(self, key: jax.Array, batch: PixelBatch) -> PixelDraws:
        """Returns the random numbers of a batch."""
        key_dropout, key_t, key_noise = jax.random.split(key, 3)
        keys = jax.random.key_data(jax.random.split(key_dropout, len(batch.pixels)))
        drawn = self.denoising.draw(key_t, key_noise, batch.pixels.shape)
        return PixelDraws(keys if self.dropout else None, *drawn)

    def loss(
        self, params: Trees, frozen: Trees, batch: PixelBatch, draws: PixelDraws
    ) -> Float[Array, " b"]:
        """Returns each image's loss times its weight."""
        unet = merge(self.graphs, params, frozen, "unet", self.compute_dtype)
        keys = draws.dropout
        value = self.denoising.loss(lambda x, t: unet(x, t, keys), batch.pixels, *draws[1:])
        return weighted(value, batch)


def pixel_loss(
    graphs: Graphs,
    schedule: NoiseSchedule,
    *,
    compute_dtype: jnp.dtype | None = None,
    dropout: bool = False,
    cfg: DiffusionConfig = PLAIN,
) -> PixelLoss:
    """Builds E w(t) d(target, unet(x_t, t)), x_0 an image in [-1, 1]; by default L_simple.

    Args:
      graphs: "unet", a UNet2DModel.
      compute_dtype: dtype that trained leaves are cast to; None leaves them.
      dropout: apply the dropout of the network's config, as in training.
      cfg: w, d, and how timesteps and noise are drawn.

    Raises:
      UserError: the options do not fit the schedule.
    """
    return PixelLoss(graphs, Denoising.of(schedule, cfg), compute_dtype, dropout)
