"""SDXL's micro-conditioning: the sizes, crop and score that an image is said to have.

Podell et al. 2023 (arXiv 2307.01952), §2.2.
"""

import math
import numbers
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from flax_sd.errors import UserError
from flax_sd.pipelines.options import Options

LARGEST = 2**20  # pixels: no image has more on a side
ORIGINAL, CROP, TARGET = "original_size", "crops_coords_top_left", "target_size"
SCORE = "aesthetic_score"
Numbers = Sequence[int | float]  # of one half


def time_ids(
    options: Options, height: int, width: int, *, guided: bool, scored: bool = False
) -> Float[np.ndarray, "k n"]:
    """Returns the numbers of an image, for the negative half of guidance before the other.

    Args:
      height: in pixels.
      width: in pixels.
      guided: whether there is a negative half.
      scored: a score takes the place of the target size, for SDXL's refiner.

    Raises:
      UserError: an option is not two whole numbers, or a score no number; all problems are named.
    """
    given, problems = dict[str, Any](options), list[str]()
    halves = (_scored if scored else _sized)(given, (height, width), problems)
    if problems:
        raise UserError("; ".join(problems))
    return np.array(halves if guided else halves[1:], np.float32)


def _sized(given: dict[str, Any], own: tuple[int, int], problems: list[str]) -> list[Numbers]:
    """Returns original size, crop and target size of both halves.

    diffusers ignores all numbers of the negative half where one of its sizes is missing.
    """
    usual = {ORIGINAL: own, CROP: (0, 0), TARGET: own}
    positive = _row(given, "", usual, problems)
    if all(given.get(f"negative_{name}") is None for name in usual):
        return [positive, positive]
    for name in (f"negative_{ORIGINAL}", f"negative_{TARGET}"):
        if given.get(name) is None:
            problems.append(f"{name} is missing: give it with the other negative sizes")
    return [_row(given, "negative_", usual, problems), positive]


def _scored(given: dict[str, Any], own: tuple[int, int], problems: list[str]) -> list[Numbers]:
    """Returns original size, crop and aesthetic score of both halves."""
    positive = _row(given, "", {ORIGINAL: own, CROP: (0, 0)}, problems)
    negative = _row(given, "negative_", {ORIGINAL: positive[:2], CROP: (0, 0)}, problems)
    return [
        [*half, _score(given, name, usual, problems)]
        for half, name, usual in ((negative, f"negative_{SCORE}", 2.5), (positive, SCORE, 6.0))
    ]


def _row(
    given: dict[str, Any], prefix: str, usual: Mapping[str, Sequence[int]], problems: list[str]
) -> list[int]:
    pairs = [_pair(given, prefix + name, default, problems) for name, default in usual.items()]
    return [number for pair in pairs for number in pair]


def _score(given: dict[str, Any], name: str, usual: float, problems: list[str]) -> float:
    value = usual if given.get(name) is None else given[name]
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    problems.append(f"{name} is {value!r}: should be a number, such as {usual}")
    return usual


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
