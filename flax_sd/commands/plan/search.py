"""The search for the largest batch that fits, with few compilations."""

import math
from collections.abc import Callable, Mapping

COMPILATIONS = 4  # of the step, at most: a large one takes minutes
MAX_BATCH = 128  # images a device and part; compiling for thousands takes many minutes


def largest_batch(needed: Callable[[int], float], limit: int, unit: int, start: int) -> int:
    """Returns the largest batch that was found to fit, 0 if none does.

    Memory grows nearly linearly with the batch: two batches give the line, and the batch where it
    crosses the limit is compiled too. A batch that is larger by one might also fit.

    Args:
      needed: bytes of a batch, infinite if it cannot be compiled; called 4 times at most.
      limit: bytes of a device.
      unit: every batch is a multiple of it.
      start: the first batch to try.
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
    """Returns the batch to try next, 0 if there is none."""
    fits = max((batch for batch, size in points.items() if size <= limit), default=0)
    too_many = min((batch for batch, size in points.items() if size > limit), default=None)
    largest = unit * MAX_BATCH if too_many is None else too_many - unit
    if len(known := _known(points)) < 2:
        return unit if unit not in points else min(2 * unit, largest)
    (b0, size0), (b1, size1) = known[-2:]
    slope = (size1 - size0) / (b1 - b0)
    guess = b1 + (limit - size1) / slope if slope > 0 else largest
    return max(fits, min(largest, math.floor(guess / unit) * unit))


def _known(points: Mapping[int, float]) -> list[tuple[int, float]]:
    """Returns the batches that could be compiled, in order."""
    return sorted((batch, size) for batch, size in points.items() if size < math.inf)
