"""The shapes that images are trained at: one square, or buckets of about its area.

Each shape is a program of its own for the compiler, so the list of them is closed, except where
small images keep their size. Shapes and sizes are (width, height) in pixels.
"""

import functools
import math
from collections.abc import Hashable, Sequence

from flax_sd.config import DataConfig
from flax_sd.data.images import image_file
from flax_sd.data.images.image_file import Fit, Size

ASPECTS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0)  # of OneTrainer's library mgds


def fit(cfg: DataConfig, size: Size) -> Fit:
    """Returns the sizes to which an image is resized and cropped.

    Raises:
      BadImage: it is too narrow, or too small to keep its size.
    """
    if cfg.buckets == "none":
        return Fit(image_file.resized(size, cfg.resolution), (cfg.resolution, cfg.resolution))
    if not cfg.bucket_upscale:
        return own_size(size, cfg.resolution, cfg.meant("bucket_step"))
    possible = shapes(cfg)
    if size in possible:
        return Fit(size, size)
    aspect = _upright if cfg.buckets == "area" else _lying
    shape = min(possible, key=lambda shape: abs(aspect(shape) - aspect(size)))
    return image_file.cover(size, shape)


def shapes(cfg: DataConfig) -> tuple[Size, ...]:
    """Returns the closed list of a config's shapes."""
    side = cfg.resolution
    if cfg.buckets == "none":
        return ((side, side),)
    if cfg.buckets == "area":
        return by_area(side, cfg.meant("bucket_step"))
    least, most = cfg.meant("bucket_min"), cfg.meant("bucket_max")
    whole = cfg.meant("bucket_step")
    return kohya(side, -(-least // whole) * whole, most // whole * whole, whole)


@functools.lru_cache
def by_area(side: int, step: int) -> tuple[Size, ...]:
    """Returns up to 17 shapes, each aspect scaled to the square's area and rounded to the step."""

    def rounded(length: float) -> int:
        return max(step, round(length / step) * step)

    pairs = {(rounded(side / math.sqrt(a)), rounded(side * math.sqrt(a))) for a in ASPECTS}
    return tuple(sorted(pairs | {(long, short) for short, long in pairs}))


@functools.lru_cache
def kohya(side: int, least: int, most: int, step: int) -> tuple[Size, ...]:
    """Returns each width in steps with the largest height within the square's area, and the
    transposes.

    `make_bucket_resolutions` of sd-scripts' library/model_util.py.
    """
    square = max(step, side // step * step)
    found = {(square, square)}
    for width in range(least, most + 1, step):
        height = min(most, side * side // width // step * step)
        if height >= least:
            found |= {(width, height), (height, width)}
    return tuple(sorted(found))


def own_size(size: Size, side: int, step: int) -> Fit:
    """Returns a fit that never enlarges: `bucket_no_upscale` of sd-scripts' BucketManager.

    Only images of more than the square's area are made smaller; what exceeds a step is cropped.

    Raises:
      BadImage: a side is shorter than a step.
    """
    resized = _shrunk(size, side * side, step) if math.prod(size) > side * side else size
    shape = (resized[0] // step * step, resized[1] // step * step)
    if not all(shape):
        raise image_file.BadImage(
            f"{size[0]} x {size[1]} pixels: a side is shorter than the step of {step} at this "
            "resolution (data.bucket_upscale enlarges small images)"
        )
    return Fit(resized, shape)


def _shrunk(size: Size, area: int, step: int) -> Size:
    """Returns a size of about `area` with one side in whole steps, the side that changes the aspect
    less.

    What the other side has over whole steps counts as changed.
    """
    aspect = size[0] / size[1]
    width = _whole(math.sqrt(area * aspect), step)
    height = _whole(math.sqrt(area / aspect), step)
    own_height, own_width = _whole(width / aspect, step), _whole(height * aspect, step)
    by_width = abs(width / own_height - aspect) if own_height else math.inf
    by_height = abs(own_width / height - aspect) if height else math.inf
    if by_width < by_height:
        return width, _nearest(width / aspect)
    return _nearest(height * aspect), height


def group_indices(keys: Sequence[Hashable]) -> list[list[int]]:
    """Groups the indices of equal keys, such as shapes, in the order of their first."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def _upright(size: Size) -> float:
    return size[1] / size[0]


def _lying(size: Size) -> float:
    return size[0] / size[1]


def _nearest(length: float) -> int:
    return int(length + 0.5)


def _whole(length: float, step: int) -> int:
    """Rounds a length to pixels, then down to whole steps."""
    return _nearest(length) // step * step
