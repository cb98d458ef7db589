"""One low-rank update in memory, in torch's layout and independent of any file format."""

import math
from typing import NamedTuple

import numpy as np


class Adapter(NamedTuple):
    """ΔW = alpha / rank · up @ down, for one linear or convolution (Hu et al. 2021, §4.1).

    Attributes:
      down: [rank, in], or [rank, in, h, w] for a convolution.
      up: [out, rank], or [out, rank, 1, 1].
      alpha: a number; equal to the rank it leaves `up @ down` as it is.
      magnitude: [out], of a DoRA: what the norms of the rows of W + ΔW become.
    """

    down: np.ndarray
    up: np.ndarray
    alpha: float | int
    magnitude: np.ndarray | None = None

    @property
    def rank(self) -> int:
        """The number of rows of `down`."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """The factor of `up @ down` at strength 1."""
        return self.alpha / self.rank

    def with_alpha(self, alpha: float | int) -> "Adapter":
        """Returns the same update under another alpha, with `up` scaled to match."""
        if alpha == self.alpha:
            return self
        up = np.asarray(self.up, np.float32) * np.float32(self.alpha / alpha)
        return self._replace(up=up, alpha=alpha)

    def delta(self) -> np.ndarray:
        """Returns ΔW in float32, shaped like torch's weight: [out, in] or [out, in, h, w]."""
        down = np.asarray(self.down, np.float32)
        up = np.asarray(self.up, np.float32).reshape(len(self.up), self.rank)
        flat = self.scale * (up @ down.reshape(self.rank, -1))
        return flat.reshape(len(up), *down.shape[1:]).astype(np.float32)

    def norm(self) -> float:
        """Returns ‖ΔW‖ (Frobenius), without computing ΔW."""
        down, up = (array.astype(np.float64) for array in (self.down, self.up))
        down, up = down.reshape(self.rank, -1), up.reshape(-1, self.rank)
        with np.errstate(invalid="ignore", over="ignore"):  # of numbers that are not finite
            squared = np.sum((up.T @ up) * (down @ down.T))
        return abs(self.scale) * float(np.sqrt(max(squared, 0)))


# component ("unet", "text_encoder", "text_encoder_2") -> dotted path of the module -> its update
LoRAFile = dict[str, dict[str, Adapter]]


def alpha_of(scale: np.float32, rank: int) -> float:
    """Returns the alpha behind a float32 `alpha / rank`: the round number with that quotient, if
    any.

    scale · rank alone gives 0.49999997 for alpha 0.5 at rank 41.
    """
    product = float(scale) * rank
    round_number = float(f"{product:.6g}")
    exact = math.isfinite(product) and np.float32(round_number / rank) == np.float32(scale)
    return round_number if exact else product
