"""The error of the autoencoder (Rombach et al. 2022, arXiv 2112.10752, §G)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_sd.models.vae import Moments
from flax_sd.system.compiler import remembered
from flax_sd.training.losses.base import Graphs, Loss, PixelBatch, Trees, merge, weighted


@remembered
def vae_loss(
    graphs: Graphs,
    *,
    stride: int,
    latent_channels: int,
    kl_weight: float,
    l1_weight: float,
    compute_dtype: jnp.dtype | None = None,
) -> Loss:
    """Builds the loss: error + kl_weight · KL(q(z|x) ‖ N(0, I)) (Rombach et al. 2022, §G).

    The reconstruction error is l1_weight · |e| + (1 - l1_weight) · e², averaged over values; the
    KL is in nats, averaged over the latents' values.

    Args:
      stride: pixels per latent, along each side.
    """

    def draw(key: jax.Array, batch: PixelBatch) -> jax.Array:
        b, height, width, _ = batch.pixels.shape
        return jax.random.normal(key, (b, height // stride, width // stride, latent_channels))

    def loss(
        params: Trees, frozen: Trees, batch: PixelBatch, draws: jax.Array
    ) -> Float[Array, " b"]:
        vae = merge(graphs, params, frozen, "vae", compute_dtype)
        moments = Moments(*(m.astype(jnp.float32) for m in vae.encode(batch.pixels)))
        error = vae.decode(moments.sample(draws)).astype(jnp.float32) - batch.pixels
        reconstruction = l1_weight * jnp.abs(error) + (1 - l1_weight) * jnp.square(error)
        value = jnp.mean(reconstruction, axis=(1, 2, 3))
        return weighted(value + kl_weight * moments.kl() / draws[0].size, batch)

    return Loss(draw, loss)
