"""What becomes of a step whose loss, gradient or update is not finite: the run stops, or goes past.

Such a step changes nothing but the step counter, whichever it is (`train_step`).
"""

import pathlib
from collections.abc import Callable, Sequence

from flax_sd.config import TrainConfig
from flax_sd.errors import UserError, some
from flax_sd.run_folder.step_lines import StepLines

ADVICE = (
    "if it is always the same pictures, look at them (flax-sd check-data); if not, what usually "
    "helps is a lower optim.learning_rate in another --output, or compute_dtype bfloat16 or "
    "float32 in place of float16"
)


class Guard:
    """Counts the steps that were not finite, and knows when there are too many in a row.

    Attributes:
      total: how many were skipped since the run began.
      overflows: steps since then that were too much for float16's loss scale, which halves itself;
        of a run that resumed, those that metrics.jsonl has.
      in_row: how many of them were the last ones.
      problem: None, or why the run must end.
    """

    def __init__(self, train: TrainConfig, pictures: Callable[[int], Sequence[str]]):
        """Takes the names of the pictures that a step shows."""
        self._skips = train.on_nonfinite == "skip"
        self._limit = train.max_skipped if self._skips else 1
        self._pictures, self.total, self.in_row, self.overflows = pictures, 0, 0, 0
        self.problem: UserError | None = None

    def resume(self, metrics: pathlib.Path, step: int) -> None:
        """Takes up the counts of a run that stands at a step, as its metrics.jsonl has them."""
        rows = list(StepLines(metrics).read(step))
        self.overflows = max((row.get("overflows", 0) for row in rows), default=0)
        skipped = {row["step"] for row in rows if row.get("pictures")}
        self.total, self.in_row = len(skipped), 0
        while step - self.in_row in skipped:
            self.in_row += 1

    def see(self, step: int, loss: float, failed: bool, overflow: bool = False) -> tuple[str, ...]:
        """Counts a step; returns the names of its pictures if it is skipped, none if it is good."""
        self.overflows += overflow
        if not failed:
            self.in_row = 0
            return ()
        self.total, self.in_row = self.total + 1, self.in_row + 1
        names = tuple(self._pictures(step))
        if self.in_row >= self._limit and self.problem is None:
            self.problem = UserError(self._why(step, loss, names))
        return names

    def notice(self, step: int, loss: float, names: Sequence[str]) -> str:
        """The line that says that a step is skipped."""
        return (
            f"step {step} is skipped: its loss ({loss}), gradient or update is not finite; its "
            f"pictures: {some(names)}"
        )

    def _why(self, step: int, loss: float, names: Sequence[str]) -> str:
        what = f"step {step}: the loss, its gradient or the update is not finite (loss {loss})"
        if self._skips:
            what += f", the last of {self.in_row} in a row (train.max_skipped)"
        more = "" if self._skips else "; train.on_nonfinite skip goes past single steps"
        good = step > self.in_row
        kept = "the last checkpoint is good" if good else "no step before it was good"
        return (
            f"{what}; its pictures: {some(names)}; nothing of it was kept and {kept}; "
            f"{ADVICE}{more}"
        )
