"""Masks: the weight of each pixel of an image in its loss, from 0 to 1."""

import pathlib

import numpy as np
from jaxtyping import Float32

from flax_sd.config import DataConfig

SUFFIX = "-masklabel"  # OneTrainer's


def mask_path(image: pathlib.Path) -> pathlib.Path:
    """Returns the path of an image's mask: 1-masklabel.png for 1.jpg."""
    return image.with_name(f"{image.stem}{SUFFIX}.png")


def is_mask(path: pathlib.PurePath) -> bool:
    """Tells whether a file's name is that of a mask, which is not an image of the set."""
    return path.stem.lower().endswith(SUFFIX)


def place_weights(
    mask: Float32[np.ndarray, "b h w"], latents: tuple[int, int], cfg: DataConfig
) -> Float32[np.ndarray, "b y x"]:
    """Returns the weight of each place of the latents: the mask's mean there, or the least weight.

    `masked_losses` of OneTrainer's modules/util/loss/masked_loss.py, which also divides by the mean
    weight of an image, if asked to. An image without weight anywhere has none either way.

    Args:
      mask: in [0, 1], for each pixel.
      latents: height and width, which divide the mask's.
    """
    (b, height, width), (y, x) = mask.shape, latents
    means = mask.reshape(b, y, height // y, x, width // x).mean((2, 4))
    weights = np.maximum(means, np.float32(cfg.unmasked_weight))
    if not cfg.mask_normalised:
        return weights
    mean = weights.mean((1, 2), keepdims=True)
    return weights / np.where(mean > 0, mean, np.float32(1))
