"""The denoising error of the UNet (Ho et al. 2020, arXiv 2006.11239, eq. 14)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_sd.config.loss import LossConfig, NoiseConfig, TimestepsConfig
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.lora.dropout import drop
from flax_sd.lora.dropout_masks import Rates
from flax_sd.models.clip import encode_ids
from flax_sd.models.vae import Moments
from flax_sd.system.compiler import remembered
from flax_sd.training.losses import dream, noise, timesteps
from flax_sd.training.losses.base import EncodedBatch, Graphs, Loss, Trees, merge, weighted
from flax_sd.training.losses.distances import make_distance
from flax_sd.training.losses.weights import make_weight


class DiffusionDraws(NamedTuple):
    """The random numbers of a denoising step."""

    posterior: jax.Array  # [b, h, w, c], to sample from the autoencoder's moments
    timesteps: jax.Array  # [b]
    noise: jax.Array  # [b, h, w, c]
    added: jax.Array | None = None  # [b, h, w, c], the input's noise, if not the target's
    dropout: jax.Array | None = None  # [b] keys for the LoRA's dropout


class DiffusionConfig(NamedTuple):
    """Options of the loss."""

    loss: LossConfig = LossConfig()
    timesteps: TimestepsConfig = TimestepsConfig()
    noise: NoiseConfig = NoiseConfig()
    dropout: Rates | None = None  # of the LoRA; None drops nothing


PLAIN = DiffusionConfig()  # eq. 14


class Denoising:
    """The error w(t) d(target, output) of images or latents x_0, for any network and target."""

    def __init__(self, schedule: NoiseSchedule, cfg: DiffusionConfig):
        """Builds w, d and the distribution of t.

        Raises:
          UserError: they do not fit the schedule.
        """
        self._schedule, self._cfg = schedule, cfg
        self._chances = timesteps.probabilities(cfg.timesteps, schedule.alphas_cumprod.size)
        self._weight = make_weight(schedule, cfg.loss)
        self._distance = make_distance(schedule, cfg.loss)
        if cfg.loss.dream is not None:
            dream.check(schedule)

    def draw(
        self, key_t: jax.Array, key_noise: jax.Array, shape: tuple[int, ...]
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Draws timesteps, noise, and the input's noise if it differs, for x_0 of that shape."""
        stratified = self._cfg.timesteps.stratified
        t = timesteps.draw(key_t, self._chances, shape[0], stratified=stratified)
        drawn = noise.draw(key_noise, shape, self._cfg.noise)
        return t, drawn, noise.perturb(key_noise, drawn, self._cfg.noise)

    def loss(
        self,
        network: dream.Network,
        x0: Float[Array, "b h w c"],
        t: Int[Array, " b"],
        noise: Float[Array, "b h w c"],
        added: Float[Array, "b h w c"] | None,
        mask: Float[Array, "b h w"] | None = None,
    ) -> Float[Array, " b"]:
        """Returns each image's error; network(x_t, t) is the network's output."""
        noisy = self._schedule.add_noise(x0, noise if added is None else added, t)
        target = self._schedule.target(x0, noise, t)
        if (preservation := self._cfg.loss.dream) is not None:
            noisy, target = dream.rectify(network, self._schedule, noisy, t, noise, preservation)
        error = network(noisy, t).astype(jnp.float32) - target
        distance = self._distance(error, t)
        value = jnp.mean(distance if mask is None else distance * mask[..., None], axis=(1, 2, 3))
        return value if self._weight is None else self._weight(t) * value


@remembered
def diffusion_loss(
    graphs: Graphs,
    schedule: NoiseSchedule,
    *,
    scaling_factor: float,
    clip_skip: int = 0,
    compute_dtype: jnp.dtype | None = None,
    cfg: DiffusionConfig = PLAIN,
) -> Loss:
    """Builds E w(t) d(target, unet(x_t, t, text)), float32; by default d is the square, t uniform.

    Args:
      graphs: "unet", and "text_encoder" if the batch carries ids instead of text states.
      scaling_factor: factor of the latents, from the VAE's config.
      compute_dtype: dtype that trained leaves are cast to; None leaves them, as those of a LoRA.
      cfg: w, d, and how timesteps and noise are drawn.

    Raises:
      UserError: the options do not fit the schedule.
    """
    denoising = Denoising(schedule, cfg)

    def draw(key: jax.Array, batch: EncodedBatch) -> DiffusionDraws:
        key_posterior, key_t, key_noise = jax.random.split(key, 3)
        shape = batch.moments.mean.shape
        keys = (
            None if cfg.dropout is None else jax.random.split(jax.random.fold_in(key, 3), shape[0])
        )
        posterior = jax.random.normal(key_posterior, shape)
        return DiffusionDraws(posterior, *denoising.draw(key_t, key_noise, shape), keys)

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
            text = encode_ids(encoder, text, clip_skip)
        moments = Moments(*(m.astype(jnp.float32) for m in batch.moments))
        latents = moments.sample(draws.posterior) * scaling_factor
        value = denoising.loss(lambda x, t: unet(x, t, text), latents, *draws[1:4], batch.mask)
        return weighted(value, batch)

    return Loss(draw, loss, schedule.alphas_cumprod.size)
