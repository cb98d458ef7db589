"""The error of the autoencoder (Rombach et al. 2022, arXiv 2112.10752, §G)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_sd.losses.base import Graphs, Loss, PixelBatch, Trees, merge
from flax_sd.models.vae import Moments


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
