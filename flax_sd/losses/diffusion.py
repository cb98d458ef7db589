"""The denoising error of the UNet (Ho et al. 2020, arXiv 2006.11239, eq. 14)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_sd.config.diffusion import LossConfig, NoiseConfig, TimestepsConfig
from flax_sd.lora.dropout import drop
from flax_sd.lora.masks import Rates
from flax_sd.losses import noise, timesteps
from flax_sd.losses.base import EncodedBatch, Graphs, Loss, Trees, masked, merge, weighted
from flax_sd.losses.distances import make_distance
from flax_sd.losses.weights import make_weight
from flax_sd.models.vae import Moments
from flax_sd.schedule import NoiseSchedule


class DiffusionDraws(NamedTuple):
    """What one step of denoising training draws."""

    posterior: jax.Array  # [b, h, w, c], for the autoencoder's own sampling
    timesteps: jax.Array  # [b]
    noise: jax.Array  # [b, h, w, c]
    added: jax.Array | None = None  # [b, h, w, c], what the input has in place of noise
    dropout: jax.Array | None = None  # [b] keys, for what the LoRA leaves out


class DiffusionConfig(NamedTuple):
    """How the loss is made."""

    loss: LossConfig = LossConfig()
    timesteps: TimestepsConfig = TimestepsConfig()
    noise: NoiseConfig = NoiseConfig()
    dropout: Rates | None = None  # of the LoRA; None leaves nothing out


PLAIN = DiffusionConfig()  # eq. 14


def diffusion_loss(
    graphs: Graphs,
    schedule: NoiseSchedule,
    *,
    scaling_factor: float,
    clip_skip: int = 0,
    compute_dtype: jnp.dtype | None = None,
    cfg: DiffusionConfig = PLAIN,
) -> Loss:
    """E w(t) d(target, unet(x_t, t, text)), in float32; plain, d is the square and t uniform.

    Args:
      graphs: "unet", and "text_encoder" if the batch carries ids instead of text states.
      scaling_factor: of the VAE's config; latents are multiplied by it.
      compute_dtype: for trained leaves that are whole weights; None leaves LoRA leaves float32.
      cfg: w, d, and how timesteps and noise are drawn.

    Raises:
      UserError: these do not fit the schedule.
    """
    chances = timesteps.probabilities(cfg.timesteps, schedule.alphas_cumprod.size)
    weight, distance = make_weight(schedule, cfg.loss), make_distance(schedule, cfg.loss)

    def draw(key: jax.Array, batch: EncodedBatch) -> DiffusionDraws:
        key_posterior, key_t, key_noise = jax.random.split(key, 3)
        shape = batch.moments.mean.shape
        drawn = noise.draw(key_noise, shape, cfg.noise)
        stratified = cfg.timesteps.stratified
        return DiffusionDraws(
            jax.random.normal(key_posterior, shape),
            timesteps.draw(key_t, chances, shape[0], stratified=stratified),
            drawn,
            noise.perturb(key_noise, drawn, cfg.noise),
            None if cfg.dropout is None else jax.random.split(jax.random.fold_in(key, 3), shape[0]),
        )

    def network(params: Trees, frozen: Trees, name: str, draws: DiffusionDraws) -> Any:
        merged = merge(graphs, params, frozen, name, compute_dtype)
        if cfg.dropout is not None and draws.dropout is not None:
            drop(merged, cfg.dropout, draws.dropout)
        return merged

    def loss(
        params: Trees, frozen: Trees, batch: EncodedBatch, draws: DiffusionDraws
    ) -> Float[Array, " b"]:
        unet = network(params, frozen, "unet", draws)
        text = batch.text
        if jnp.issubdtype(text.dtype, jnp.integer):
            encoder = network(params, frozen, "text_encoder", draws)
            text = encoder(text, clip_skip).text
        moments = Moments(*(m.astype(jnp.float32) for m in batch.moments))
        latents = moments.sample(draws.posterior) * scaling_factor
        added = draws.noise if draws.added is None else draws.added
        noisy = schedule.add_noise(latents, added, draws.timesteps)
        out = unet(noisy, draws.timesteps, text).astype(jnp.float32)
        error = out - schedule.target(latents, draws.noise, draws.timesteps)
        value = jnp.mean(masked(distance(error, draws.timesteps), batch), axis=(1, 2, 3))
        return weighted(value if weight is None else weight(draws.timesteps) * value, batch)

    return Loss(draw, loss, schedule.alphas_cumprod.size)
