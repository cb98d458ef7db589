"""The forms in which `generate` returns images."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from flax_sd.errors import UserError

Arrays = Literal["uint8", "float", "latents"]
Output = Literal["uint8", "float", "latents", "pil"]


def check_output(output: object, known: Sequence[str] = get_args(Output)) -> None:
    """Raises a UserError if the form of the output is not one of those known."""
    if output not in known:
        raise UserError(f"output {output!r} is not one of {', '.join(known)}")


def in_form(images: Float[np.ndarray, "b h w c"], output: Output) -> np.ndarray | list[Image.Image]:
    """Returns images in [0, 1] as "float", "uint8" or "pil".

    Raises:
      UserError: one holds NaN and should be rounded.
    """
    if output == "float":
        return images
    pixels = to_uint8(images)
    return to_pil(pixels) if output == "pil" else pixels


def to_uint8(images: Float[np.ndarray, "b h w c"]) -> UInt8[np.ndarray, "b h w c"]:
    """Rounds images in [0, 1] as diffusers does.

    Raises:
      UserError: one holds NaN, which would give a black image.
    """
    bad = [k for k, image in enumerate(images) if not np.isfinite(image).all()]
    if bad:
        raise UserError(f"images {bad} are NaN: load the model with dtype float32")
    return (images * 255).round().astype(np.uint8)


def to_pil(images: UInt8[np.ndarray, "b h w c"]) -> list[Image.Image]:
    """Returns PIL images, in grey if there is one channel."""
    return [
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in images
    ]
