"""A mean with its confidence interval."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.special import stdtrit

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean, and half the width of its interval: NaN if there is only one value."""

    mean: float
    half: float

    @property
    def clear(self) -> bool:
        """True if the interval does not cover 0."""
        return abs(self.mean) > self.half

    @property
    def falls(self) -> bool:
        """True if all of the interval is below 0."""
        return self.mean + self.half < 0


def said_change(before: float, after: float, half: float | None) -> str:
    """Returns a change in percent, with half of its interval; says so if that covers 0.

    Args:
      half: of the interval of `after - before`; None or NaN where it is not known.
    """
    change = f"{after / before - 1:+.1%}"
    if half is None or math.isnan(half):
        return f"{change} (its interval is not known)"
    change += f" ± {half / before:.1%}"
    return change if abs(after - before) > half else f"no measurable change ({change})"


def interval(values: Float64[np.ndarray, " n"]) -> Interval:
    """Returns the mean of independent values with its 95 % interval, by Student's t: t s / √n."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Interval(mean, math.nan)
    quantile = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return Interval(mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(n))
