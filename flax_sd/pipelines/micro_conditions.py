"""SDXL's micro-conditioning: the sizes and the crop that an image is said to have.

Podell et al. 2023 (arXiv 2307.01952), §2.2.
"""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from flax_sd.errors import UserError
from flax_sd.pipelines.options import Options

LARGEST = 2**20  # pixels: no image has more on a side
ORIGINAL, CROP, TARGET = "original_size", "crops_coords_top_left", "target_size"


def time_ids(
    options: Options, height: int, width: int, *, guided: bool
) -> Float[np.ndarray, "k 6"]:
    """Returns the numbers of an image, for the negative half of guidance before the other.

    Args:
      height: in pixels.
      width: in pixels.
      guided: whether there is a negative half.

    Raises:
      UserError: an option is not two whole numbers; all problems are named.
    """
    own, problems = (height, width), []
    usual = {ORIGINAL: own, CROP: (0, 0), TARGET: own}
    given: dict[str, Any] = dict(options)
    positive = {name: _pair(given, name, usual[name], problems) for name in usual}
    negative = _negative(given, usual, problems) or positive
    if problems:
        raise UserError("; ".join(problems))
    halves = [negative, positive] if guided else [positive]
    return np.array([[n for pair in half.values() for n in pair] for half in halves], np.float32)


def _negative(
    options: dict[str, Any], usual: dict[str, tuple[int, int]], problems: list[str]
) -> dict[str, Sequence[int]] | None:
    """Returns the numbers of the negative half, if some are given; both sizes have to be.

    diffusers ignores them all where one of the sizes is missing.
    """
    names = {name: f"negative_{name}" for name in usual}
    if all(options.get(name) is None for name in names.values()):
        return None
    for name in (names[ORIGINAL], names[TARGET]):
        if options.get(name) is None:
            problems.append(f"{name} is missing: give it with the other negative sizes")
    return {name: _pair(options, names[name], usual[name], problems) for name in usual}


def _pair(
    options: dict[str, Any], name: str, usual: Sequence[int], problems: list[str]
) -> Sequence[int]:
    """Returns an option or its default; adds what is wrong with it to `problems`."""
    value = options.get(name)
    if value is None:
        return usual
    try:
        first, second = map(operator.index, value if isinstance(value, list | tuple) else ())
    except (TypeError, ValueError):
        problems.append(f"{name} is {value!r}: should be two whole numbers, as (1024, 1024)")
        return usual
    if not 0 <= min(first, second) <= max(first, second) <= LARGEST:
        problems.append(f"{name} is {value!r}: should be from 0 to {LARGEST}")
    return first, second
