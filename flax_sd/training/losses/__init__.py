"""The losses: the denoising error of the UNet, and the error of the autoencoder."""

from flax_sd.training.losses.autoencoder import vae_loss
from flax_sd.training.losses.base import (
    EncodedBatch,
    Graphs,
    Loss,
    PixelBatch,
    PlainLoss,
    Trees,
    merge,
)
from flax_sd.training.losses.diffusion import DiffusionConfig, DiffusionDraws, diffusion_loss
from flax_sd.training.losses.pixels import pixel_loss

__all__ = [
    "DiffusionConfig",
    "DiffusionDraws",
    "EncodedBatch",
    "Graphs",
    "Loss",
    "PixelBatch",
    "PlainLoss",
    "Trees",
    "diffusion_loss",
    "merge",
    "pixel_loss",
    "vae_loss",
]
