"""The log of evaluations on disk, and what follows from it: the best step and early stopping.

validation.jsonl is for users and charts. validation_pictures.jsonl has each image's loss, from
which a resumed run computes the changes between two steps.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float64

from flax_sd.reports.confidence_interval import Interval, interval
from flax_sd.run_folder.layout import VAL_LOSS, VALIDATION, VALIDATION_PICTURES
from flax_sd.run_folder.step_lines import StepLines


class Losses(NamedTuple):
    """The loss of each image of a set, by name, in each band of the timesteps."""

    names: tuple[str, ...]
    values: Float64[np.ndarray, "n bands"]

    @property
    def means(self) -> "ImageMeans":
        """Each image's mean over the bands."""
        return ImageMeans(self.names, np.mean(self.values, axis=1))

    @property
    def curve(self) -> list[float]:
        """Each band's mean over the images."""
        return np.mean(self.values, axis=0).tolist()


class ImageMeans(NamedTuple):
    """The mean loss of each image of a set, by name."""

    names: tuple[str, ...]
    values: Float64[np.ndarray, " n"]


def change(before: ImageMeans | None, after: ImageMeans) -> Interval | None:
    """Returns the mean change of the images' losses; None unless both have the same images."""
    if before is None or before.names != after.names:
        return None
    return interval(after.values - before.values)


class Evaluated(NamedTuple):
    """The mean loss of a set, and its change since step 0, if that is known."""

    loss: Interval
    change: Interval | None


class ValidationLog:
    """The evaluations of a run, up to its current step."""

    def __init__(self, output: pathlib.Path, step: int):
        """Reads the evaluations up to `step`; only `rewind` drops later ones.

        Raises:
          UserError: the file cannot be read.
        """
        self._lines = StepLines(output / VALIDATION)
        self._images = StepLines(output / VALIDATION_PICTURES)
        self._step = step
        self._known: dict[str, dict[int, ImageMeans]] = {}
        for line in self._images.read(step):
            names, values = zip(*line["losses"], strict=True)
            means = ImageMeans(tuple(names), np.array(values, np.float64))
            self._known.setdefault(line["set"], {})[line["step"]] = means

    def rewind(self) -> None:
        """Drops the lines after the current step.

        Raises:
          UserError: a file cannot be written.
        """
        if jax.process_index() == 0:
            self._lines.truncate_after(self._step)
            self._images.truncate_after(self._step)

    def best(self) -> int | None:
        """Returns the step after 0 with the lowest val_loss; of equal ones, the first."""
        known = self._known.get(VAL_LOSS, {})
        after = [(float(np.mean(means.values)), step) for step, means in known.items() if step]
        return min(after)[1] if after else None

    def without_improvement(self) -> int:
        """Counts the last evaluations in a row without a significant improvement of val_loss.

        An improvement is significant if the 95 % interval of the change is below 0. The change is
        that since the last significant one, or step 0, paired by image.
        """
        reference, waited = None, 0
        for _, means in sorted(self._known.get(VAL_LOSS, {}).items()):
            moved = change(reference, means)
            if moved is None or moved.falls:
                reference, waited = means, 0
            else:
                waited += 1
        return waited

    def add(
        self, step: int, name: str, losses: Losses, bands: Sequence[tuple[int, int]]
    ) -> Evaluated:
        """Writes the evaluation of a set to both files.

        Raises:
          UserError: they cannot be written.
        """
        means = losses.means
        loss, moved = interval(means.values), None
        if step:
            moved = change(self._known.get(name, {}).get(0), means)
        self._known.setdefault(name, {})[step] = means
        if jax.process_index() == 0:
            pairs = [list(pair) for pair in zip(means.names, means.values.tolist(), strict=True)]
            self._images.append({"step": step, "set": name, "losses": pairs})
            line = {
                "step": step,
                "set": name,
                "mean": loss.mean,
                "ci95": loss.half,
                "change": None if moved is None else moved.mean,
                "change_ci95": None if moved is None else moved.half,
                "count": len(means.names),
                "bands": [[*edge, mean] for edge, mean in zip(bands, losses.curve, strict=False)],
            }
            self._lines.append(line)
        return Evaluated(loss, moved)
