"""All that determines the pixels of an image, once its file is decoded, in one value."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int32
from PIL import Image, ImageOps

from flax_sd.config import DataConfig
from flax_sd.data.images.image_file import Draw, Fit, Size


class PixelTransform(NamedTuple):
    """The transform from a decoded file to pixels; no other option affects them.

    Attributes:
      background: the colour under what is transparent.
      fit: the sizes that it is resized and cropped to.
      interpolation: one of Pillow's resampling filters, in lower case.
      left: crop offset, in pixels of the resized image.
      top: likewise.
      mirrored: whether left and right change places.
    """

    background: str
    fit: Fit
    interpolation: str
    left: int
    top: int
    mirrored: bool

    def pixels(self, image: Image.Image) -> Float[np.ndarray, "h w *c"]:
        """Returns an image, which was decoded over the background, as numbers in [-1, 1].

        Args:
          image: of mode RGB, or L, which has no axis of channels.
        """
        width, height = self.fit.shape
        box = self.left, self.top, self.left + width, self.top + height
        filtered = Image.Resampling[self.interpolation.upper()]
        image = image.resize(self.fit.resized, filtered).crop(box)
        if self.mirrored:
            image = ImageOps.mirror(image)
        return np.asarray(image, np.float32) / 127.5 - 1

    def time_ids(self, original: Size) -> Int32[np.ndarray, "6"]:
        """Returns what SDXL's UNet is told of the image (Podell et al. 2023, §2.2), in pixels.

        Height and width of the original, top and left of the crop, height and width of the result,
        as in diffusers' train_text_to_image_lora_sdxl.py. The crop is measured in the resized
        image as it is shown: the mirror image of one without its left edge has no right edge.

        Args:
          original: width and height of the decoded file.
        """
        width, height = self.fit.shape
        left = self.fit.resized[0] - width - self.left if self.mirrored else self.left
        return np.array([*original[::-1], self.top, left, height, width], np.int32)


def transform_of(cfg: DataConfig, fit: Fit, draw: Draw) -> PixelTransform:
    """Returns the transform of an image with that fit, cropped in the centre or at random."""
    spare_x, spare_y = (a - b for a, b in zip(fit.resized, fit.shape, strict=True))
    if cfg.center_crop:
        left, top = round(spare_x / 2), round(spare_y / 2)
    else:
        left, top = draw.left % (spare_x + 1), draw.top % (spare_y + 1)
    mirrored = cfg.random_flip and draw.flip % 2 == 1
    return PixelTransform(cfg.background, fit, cfg.interpolation, left, top, mirrored)
