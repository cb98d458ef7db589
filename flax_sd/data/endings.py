"""What files are by the endings of their names."""

import pathlib

from flax_sd.data import masks

PICTURES = frozenset(".png .jpg .jpeg .webp .bmp .gif .tif .tiff .avif .jp2 .ppm .tga".split())
# What people and programs call a file of captions; which of them are read is for the folder to say.
CAPTIONS = frozenset(".txt .text .caption .captions .cap .tags".split())


def is_picture(path: pathlib.Path) -> bool:
    """Whether a file is a picture of a set; masks are none."""
    return path.suffix.lower() in PICTURES and not masks.is_mask(path)
