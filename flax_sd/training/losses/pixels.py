"""The denoising error of an unconditional UNet on images (Ho et al. 2020, eq. 14)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.system.compiler import remembered
from flax_sd.training.losses.base import Graphs, Loss, PixelBatch, Trees, merge, weighted
from flax_sd.training.losses.diffusion import PLAIN, Denoising, DiffusionConfig


class PixelDraws(NamedTuple):
    """The random numbers of a step."""

    dropout: jax.Array | None  # [b, 2], key data for the network's dropout
    timesteps: jax.Array  # [b]
    noise: jax.Array  # [b, h, w, c]
    added: jax.Array | None = None  # [b, h, w, c], the input's noise, if not the target's


@remembered
def pixel_loss(
    graphs: Graphs,
    schedule: NoiseSchedule,
    *,
    compute_dtype: jnp.dtype | None = None,
    dropout: bool = False,
    cfg: DiffusionConfig = PLAIN,
) -> Loss:
    """Builds E w(t) d(target, unet(x_t, t)), x_0 an image in [-1, 1]; by default L_simple.

    Args:
      graphs: "unet", a UNet2DModel.
      compute_dtype: dtype that trained leaves are cast to; None leaves them.
      dropout: apply the dropout of the network's config, as in training.
      cfg: w, d, and how timesteps and noise are drawn.

    Raises:
      UserError: the options do not fit the schedule.
    """
    denoising = Denoising(schedule, cfg)

    def draw(key: jax.Array, batch: PixelBatch) -> PixelDraws:
        key_dropout, key_t, key_noise = jax.random.split(key, 3)
        keys = jax.random.key_data(jax.random.split(key_dropout, len(batch.pixels)))
        drawn = denoising.draw(key_t, key_noise, batch.pixels.shape)
        return PixelDraws(keys if dropout else None, *drawn)

    def loss(
        params: Trees, frozen: Trees, batch: PixelBatch, draws: PixelDraws
    ) -> Float[Array, " b"]:
        unet = merge(graphs, params, frozen, "unet", compute_dtype)
        keys = draws.dropout
        value = denoising.loss(lambda x, t: unet(x, t, keys), batch.pixels, *draws[1:])
        return weighted(value, batch)

    return Loss(draw, loss, schedule.alphas_cumprod.size)
