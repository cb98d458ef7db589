"""The error of the autoencoder (Rombach et al. 2022, arXiv 2112.10752, §G)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from flax_sd.models.vae import Moments
from flax_sd.training.losses.base import Graphs, PixelBatch, Trees, merge, weighted


class VaeLoss(NamedTuple):
    """Reconstruction error + kl_weight · KL(q(z|x) ‖ N(0, I)); `vae_loss` builds it."""

    graphs: Graphs
    stride: int
    latent_channels: int
    kl_weight: ArrayLike
    l1_weight: ArrayLike
    compute_dtype: jnp.dtype | None

    @property
    def timesteps(self) -> None:
        """None: there are none."""

    def draw(self, key: jax.Array, batch: PixelBatch) -> jax.Array:
        """Returns the noise of the latents, [b, h, w, c]."""
        b, height, width, _ = batch.pixels.shape
        shape = (b, height // self.stride, width // self.stride, self.latent_channels)
        return jax.random.normal(key, shape)

    def loss(
        self, params: Trees, frozen: Trees, batch: PixelBatch, draws: jax.Array
    ) -> Float[Array, " b"]:
        """Returns each image's loss times its weight."""
        vae = merge(self.graphs, params, frozen, "vae", self.compute_dtype)
        moments = Moments(*(m.astype(jnp.float32) for m in vae.encode(batch.pixels)))
        error = vae.decode(moments.sample(draws)).astype(jnp.float32) - batch.pixels
        absolute, square = self.l1_weight * jnp.abs(error), (1 - self.l1_weight) * jnp.square(error)
        value = jnp.mean(absolute + square, axis=(1, 2, 3))
        return weighted(value + self.kl_weight * moments.kl() / draws[0].size, batch)


def vae_loss(
    graphs: Graphs,
    *,
    stride: int,
    latent_channels: int,
    kl_weight: float,
    l1_weight: float,
    compute_dtype: jnp.dtype | None = None,
) -> VaeLoss:
    """Builds the loss: error + kl_weight · KL(q(z|x) ‖ N(0, I)) (Rombach et al. 2022, §G).

    The reconstruction error is l1_weight · |e| + (1 - l1_weight) · e², averaged over values; the
    KL is in nats, averaged over the latents' values.

    Args:
      stride: pixels per latent, along each side.
    """
    return VaeLoss(graphs, stride, latent_channels, kl_weight, l1_weight, compute_dtype)
