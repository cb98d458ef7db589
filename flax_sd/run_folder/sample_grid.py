"""Where the single images of a sample grid are: a text inside its PNG."""

import json
import pathlib
from collections.abc import Sequence

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flax_sd.files.json_values import JsonObject

IMAGES = "flax_sd_images"
Place = tuple[int, int, int, int, str]  # left, top, width, height, label


def grid_info(places: Sequence[Place]) -> PngInfo:
    """Returns the text to save with a grid."""
    info = PngInfo()
    info.add_text(IMAGES, json.dumps(places))
    return info


def read_grid(path: pathlib.Path) -> JsonObject:
    """Returns the grid's "size", and "images": a Place for each.

    A grid of an earlier version has no "images"; a file that is no image, neither.
    """
    try:
        with Image.open(path) as grid:
            places = grid.info.get(IMAGES)
            return {"size": list(grid.size), "images": json.loads(places) if places else []}
    except (OSError, ValueError):
        return {"size": [], "images": []}
