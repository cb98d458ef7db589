"""Steps whose loss, gradient or update is not finite: the run skips them or stops.

In both cases such a step changes nothing but the step counter (`step.py`).
"""

import pathlib
from collections.abc import Callable, Sequence

from flax_sd.config import TrainConfig
from flax_sd.errors import UserError, some
from flax_sd.run_folder.step_lines import StepLines

ADVICE = (
    "if it is always the same images, look at them (flax-sd check-data); if not, try "
    "a lower optim.learning_rate with another --output, or compute_dtype bfloat16 or "
    "float32 instead of float16"
)


class Guard:
    """Counts the steps that were not finite, and says when there are too many in a row.

    Attributes:
      total: number of skipped steps since the run began.
      overflows: number of steps that overflowed float16's loss scale, which then halves; of a run
        that resumed, those that metrics.jsonl has.
      in_row: number of skipped steps in a row, up to the last step.
      problem: the error that ends the run, or None.
    """

    def __init__(self, train: TrainConfig, images: Callable[[int], Sequence[str]]):
        """Takes a function that names the images of a step."""
        self._skips = train.on_nonfinite == "skip"
        self._limit = train.max_skipped if self._skips else 1
        self._images, self.total, self.in_row, self.overflows = images, 0, 0, 0
        self.problem: UserError | None = None

    def resume(self, metrics: pathlib.Path, step: int) -> None:
        """Reads the counts of a run up to a step from its metrics.jsonl."""
        rows = list(StepLines(metrics).read(step))
        self.overflows = max((row.get("overflows", 0) for row in rows), default=0)
        skipped = {row["step"] for row in rows if row.get("pictures")}
        self.total, self.in_row = len(skipped), 0
        while step - self.in_row in skipped:
            self.in_row += 1

    def see(self, step: int, loss: float, failed: bool, overflow: bool = False) -> tuple[str, ...]:
        """Counts a step; returns the names of its images if it failed, none if it is good."""
        self.overflows += overflow
        if not failed:
            self.in_row = 0
            return ()
        self.total, self.in_row = self.total + 1, self.in_row + 1
        names = tuple(self._images(step))
        if self.in_row >= self._limit and self.problem is None:
            self.problem = UserError(self._why(step, loss, names))
        return names

    def notice(self, step: int, loss: float, names: Sequence[str]) -> str:
        """Returns the message that a step is skipped."""
        return (
            f"step {step} is skipped: its loss ({loss}), gradient or update is not finite; its "
            f"images: {some(names)}"
        )

    def _why(self, step: int, loss: float, names: Sequence[str]) -> str:
        what = f"step {step}: the loss, its gradient or the update is not finite (loss {loss})"
        if self._skips:
            what += f", the last of {self.in_row} in a row (train.max_skipped)"
        more = "" if self._skips else "; train.on_nonfinite skip ignores single steps"
        good = step > self.in_row
        kept = "the last checkpoint is good" if good else "no step before it was good"
        return (
            f"{what}; its images: {some(names)}; the step changed nothing and {kept}; "
            f"{ADVICE}{more}"
        )
