"""The largest batch that fits, from as few compilations as will do; and what else would help."""

import math
from collections.abc import Callable, Mapping

COMPILATIONS = 4  # of the step, at most: a large one takes minutes
MOST = 128  # pictures a device and part; compiling for thousands takes many minutes


def largest_batch(needed: Callable[[int], float], limit: int, unit: int, start: int) -> int:
    """The largest batch found to fit, 0 if none does.

    Memory grows along a line with the batch, nearly: two batches give the line, and the batch where
    it crosses the limit is measured too. So the result is a batch that was seen to fit; one more
    might.

    Args:
      needed: bytes of a batch, infinite if it cannot even be compiled; asked 4 times at most.
      limit: bytes of a device.
      unit: what every batch is a multiple of.
      start: the first batch to ask for.
    """
    points = {start: needed(start)}
    while len(points) < COMPILATIONS:
        guess = _next(points, limit, unit)
        if guess in points or not guess:
            break
        on_a_line = len(_known(points)) > 1
        points[guess] = needed(guess)
        if on_a_line and points[guess] <= limit:
            break
    return max((batch for batch, size in points.items() if size <= limit), default=0)


def _next(points: Mapping[int, float], limit: int, unit: int) -> int:
    """The batch to ask for next, 0 if there is none."""
    fits = max((batch for batch, size in points.items() if size <= limit), default=0)
    too_many = min((batch for batch, size in points.items() if size > limit), default=None)
    most = unit * MOST if too_many is None else too_many - unit
    if len(known := _known(points)) < 2:
        return unit if unit not in points else min(2 * unit, most)
    (b0, size0), (b1, size1) = known[-2:]
    slope = (size1 - size0) / (b1 - b0)
    guess = b1 + (limit - size1) / slope if slope > 0 else most
    return max(fits, min(most, math.floor(guess / unit) * unit))


def _known(points: Mapping[int, float]) -> list[tuple[int, float]]:
    """The batches that could be compiled, in order."""
    return sorted((batch, size) for batch, size in points.items() if size < math.inf)
