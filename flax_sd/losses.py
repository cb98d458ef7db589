"""What a step minimises: the denoising error of the UNet, or the error of the autoencoder.

A loss is a pair of pure functions: `draw` makes everything random for a batch from one key, and
`loss` is then deterministic, so that a batch divided into parts, or over devices, sees the same
noise as one that is not.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flax_sd.loss_weights import Weight
from flax_sd.models.vae import Moments
from flax_sd.schedule import NoiseSchedule

Trees = Mapping[str, Any]  # component name -> a pytree of its leaves, mostly an nnx.State
Graphs = Mapping[str, nnx.GraphDef]


class Loss(NamedTuple):
    """The two halves of a training objective.

    draw(key, batch) -> a pytree whose arrays all begin with the batch axis.
    loss(params, frozen, batch, draws) -> float32 [b], each picture's own; a step takes the mean.
    """

    draw: Callable[[jax.Array, Any], Any]
    loss: Callable[[Trees, Trees, Any, Any], Float[Array, " b"]]


class EncodedBatch(NamedTuple):
    """Pictures as moments of their latents, captions as text states or, if trained on, ids."""

    moments: Moments  # [b, h/8, w/8, c] each
    text: jax.Array  # [b, n, d] states, or [b, n] int ids


class PixelBatch(NamedTuple):
    """Pictures in [-1, 1], [b, h, w, 3]."""

    pixels: jax.Array


class DiffusionDraws(NamedTuple):
    """What one step of denoising training draws."""

    posterior: jax.Array  # [b, h, w, c], for the autoencoder's own sampling
    timesteps: jax.Array  # [b]
    noise: jax.Array  # [b, h, w, c]


def merge(
    graphs: Graphs, params: Trees, frozen: Trees, name: str, dtype: jnp.dtype | None = None
) -> Any:
    """The component as a module; its trained leaves cast to `dtype` unless that is None."""
    trained = params.get(name)
    if trained is None:
        return nnx.merge(graphs[name], frozen[name])
    if dtype is not None:
        trained = jax.tree.map(lambda leaf: leaf.astype(dtype), trained)
    return nnx.merge(graphs[name], trained, frozen[name])


def diffusion_loss(
    graphs: Graphs,
    schedule: NoiseSchedule,
    *,
    scaling_factor: float,
    clip_skip: int = 0,
    compute_dtype: jnp.dtype | None = None,
    weight: Weight | None = None,
) -> Loss:
    """E w(t) ‖target - unet(x_t, t, text)‖² over uniform t (Ho et al. 2020, eq. 14), in float32.

    Args:
      graphs: "unet", and "text_encoder" if the batch carries ids instead of text states.
      scaling_factor: of the VAE's config; latents are multiplied by it.
      compute_dtype: for trained leaves that are whole weights; None leaves LoRA leaves float32.
      weight: w, how much each timestep counts; None counts all alike.
    """

    def draw(key: jax.Array, batch: EncodedBatch) -> DiffusionDraws:
        key_posterior, key_t, key_noise = jax.random.split(key, 3)
        shape = batch.moments.mean.shape
        return DiffusionDraws(
            jax.random.normal(key_posterior, shape),
            jax.random.randint(key_t, shape[:1], 0, schedule.alphas_cumprod.size),
            jax.random.normal(key_noise, shape),
        )

    def loss(
        params: Trees, frozen: Trees, batch: EncodedBatch, draws: DiffusionDraws
    ) -> Float[Array, " b"]:
        unet = merge(graphs, params, frozen, "unet", compute_dtype)
        text = batch.text
        if jnp.issubdtype(text.dtype, jnp.integer):
            encoder = merge(graphs, params, frozen, "text_encoder", compute_dtype)
            text = encoder(text, clip_skip).text
        moments = Moments(*(m.astype(jnp.float32) for m in batch.moments))
        latents = moments.sample(draws.posterior) * scaling_factor
        noisy = schedule.add_noise(latents, draws.noise, draws.timesteps)
        out = unet(noisy, draws.timesteps, text).astype(jnp.float32)
        error = out - schedule.target(latents, draws.noise, draws.timesteps)
        value = jnp.mean(jnp.square(error), axis=(1, 2, 3))
        return value if weight is None else weight(draws.timesteps) * value

    return Loss(draw, loss)


def vae_loss(
    graphs: Graphs,
    *,
    latent_shape: tuple[int, int, int],
    kl_weight: float,
    l1_weight: float,
    compute_dtype: jnp.dtype | None = None,
) -> Loss:
    """Reconstruction error + kl_weight · KL(q(z|x) ‖ N(0, I)) (Rombach et al. 2022, §G).

    The reconstruction error is l1_weight · |e| + (1 - l1_weight) · e², averaged over values; the
    KL is in nats, averaged over the latents' values.

    Args:
      latent_shape: (h/8, w/8, c) of a picture's latents.
    """

    def draw(key: jax.Array, batch: PixelBatch) -> jax.Array:
        return jax.random.normal(key, (len(batch.pixels), *latent_shape))

    def loss(
        params: Trees, frozen: Trees, batch: PixelBatch, draws: jax.Array
    ) -> Float[Array, " b"]:
        vae = merge(graphs, params, frozen, "vae", compute_dtype)
        moments = Moments(*(m.astype(jnp.float32) for m in vae.encode(batch.pixels)))
        error = vae.decode(moments.sample(draws)).astype(jnp.float32) - batch.pixels
        reconstruction = l1_weight * jnp.abs(error) + (1 - l1_weight) * jnp.square(error)
        return jnp.mean(reconstruction, axis=(1, 2, 3)) + kl_weight * moments.kl() / draws[0].size

    return Loss(draw, loss)
