"""The denoising error of the UNet (Ho et al. 2020, arXiv 2006.11239, eq. 14)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from flax_sd.config.loss import LossConfig, NoiseConfig, TimestepsConfig
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.lora.dropout import drop
from flax_sd.lora.dropout_masks import Rates
from flax_sd.models.clip import TextStates
from flax_sd.models.text_encoders import ALL_LAYERS, TextRule, encode_ids
from flax_sd.models.unet_conditions import AddedConditions
from flax_sd.models.vae import Moments
from flax_sd.training.losses import dream, noise, timesteps
from flax_sd.training.losses.base import EncodedBatch, Graphs, Trees, merge, weighted
from flax_sd.training.losses.distances import Distance
from flax_sd.training.losses.noise import Noise
from flax_sd.training.losses.weights import timestep_weights


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


class Denoising(NamedTuple):
    """The error w(t) d(target, output) of images or latents x_0, for any network and target.

    Attributes:
      reached: the cumulative distribution of t, float32 [T].
      weights: w of each timestep, float32 [T]; None if it is 1.
      distance: d.
      dream_power: the preservation of DREAM; None for none.
    """

    schedule: NoiseSchedule
    reached: ArrayLike
    stratified: bool
    weights: ArrayLike | None
    distance: Distance
    noise: Noise
    dream_power: ArrayLike | None

    @classmethod
    def of(cls, schedule: NoiseSchedule, cfg: DiffusionConfig) -> "Denoising":
        """Builds w, d and the distribution of t.

        Raises:
          UserError: they do not fit the schedule.
        """
        if cfg.loss.dream is not None:
            dream.check(schedule)
        chances = timesteps.probabilities(cfg.timesteps, schedule.alphas_cumprod.size)
        return cls(
            schedule,
            timesteps.reached(chances),
            cfg.timesteps.stratified,
            timestep_weights(schedule, cfg.loss),
            Distance.of(schedule, cfg.loss),
            Noise.of(cfg.noise),
            cfg.loss.dream,
        )

    @property
    def timesteps(self) -> int:
        """Number of timesteps."""
        return self.schedule.alphas_cumprod.size

    def draw(
        self, key_t: jax.Array, key_noise: jax.Array, shape: tuple[int, ...]
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Draws timesteps, noise, and the input's noise if it differs, for x_0 of that shape."""
        t = timesteps.draw(key_t, self.reached, shape[0], stratified=self.stratified)
        drawn = noise.draw(key_noise, shape, self.noise)
        return t, drawn, noise.perturb(key_noise, drawn, self.noise)

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
        noisy = self.schedule.add_noise(x0, noise if added is None else added, t)
        target = self.schedule.target(x0, noise, t)
        if self.dream_power is not None:
            noisy, target = dream.rectify(network, self.schedule, noisy, t, noise, self.dream_power)
        error = network(noisy, t).astype(jnp.float32) - target
        distance = self.distance(error, t)
        value = jnp.mean(distance if mask is None else distance * mask[..., None], axis=(1, 2, 3))
        return value if self.weights is None else jnp.asarray(self.weights)[t] * value


class DiffusionLoss(NamedTuple):
    """E w(t) d(target, unet(x_t, t, text)), float32; `diffusion_loss` builds it."""

    graphs: Graphs
    denoising: Denoising
    scaling_factor: ArrayLike
    clip_skip: int
    compute_dtype: jnp.dtype | None
    dropout: Rates | None
    text_encoders: tuple[str, ...]
    text_rule: TextRule

    @property
    def timesteps(self) -> int:
        """Number of timesteps."""
        return self.denoising.timesteps

    def draw(self, key: jax.Array, batch: EncodedBatch) -> DiffusionDraws:
        """Returns the random numbers of a batch."""
        key_posterior, key_t, key_noise = jax.random.split(key, 3)
        shape = batch.moments.mean.shape
        keys = None
        if self.dropout is not None:
            keys = jax.random.split(jax.random.fold_in(key, 3), shape[0])
        posterior = jax.random.normal(key_posterior, shape)
        return DiffusionDraws(posterior, *self.denoising.draw(key_t, key_noise, shape), keys)

    def loss(
        self, params: Trees, frozen: Trees, batch: EncodedBatch, draws: DiffusionDraws
    ) -> Float[Array, " b"]:
        """Returns each image's loss times its weight."""
        unet = self._network(params, frozen, "unet", draws)
        states = batch.text
        if not isinstance(states, TextStates):
            encoders = [self._network(params, frozen, name, draws) for name in self.text_encoders]
            states = encode_ids(encoders, states, self.clip_skip, self.text_rule)
        read = (states.text,)
        if states.pooled is not None:
            assert batch.time_ids is not None, "a network that reads pooled text reads sizes"
            read = states.text, AddedConditions(states.pooled, batch.time_ids)
        moments = Moments(*(m.astype(jnp.float32) for m in batch.moments))
        latents = moments.sample(draws.posterior) * self.scaling_factor
        value = self.denoising.loss(
            lambda x, t: unet(x, t, *read), latents, *draws[1:4], batch.mask
        )
        return weighted(value, batch)

    def _network(self, params: Trees, frozen: Trees, name: str, draws: DiffusionDraws) -> Any:
        merged = merge(self.graphs, params, frozen, name, self.compute_dtype)
        if self.dropout is not None and draws.dropout is not None:
            drop(merged, self.dropout, draws.dropout)
        return merged


def diffusion_loss(
    graphs: Graphs,
    schedule: NoiseSchedule,
    *,
    scaling_factor: float,
    clip_skip: int = 0,
    text_encoders: tuple[str, ...] = ("text_encoder",),
    text_rule: TextRule = ALL_LAYERS,
    compute_dtype: jnp.dtype | None = None,
    cfg: DiffusionConfig = PLAIN,
) -> DiffusionLoss:
    """Builds E w(t) d(target, unet(x_t, t, text)), float32; by default d is the square, t uniform.

    Args:
      graphs: "unet", and the text encoders if the batch carries ids instead of text states.
      scaling_factor: factor of the latents, from the VAE's config.
      clip_skip: last layers of the text encoders to leave out besides those of the rule.
      text_encoders: their names, in the order of their ids.
      text_rule: which of their states the UNet reads.
      compute_dtype: dtype that trained leaves are cast to; None leaves them, as those of a LoRA.
      cfg: w, d, and how timesteps and noise are drawn.

    Raises:
      UserError: the options do not fit the schedule.
    """
    denoising = Denoising.of(schedule, cfg)
    how = clip_skip, compute_dtype, cfg.dropout, text_encoders, text_rule
    return DiffusionLoss(graphs, denoising, scaling_factor, *how)
