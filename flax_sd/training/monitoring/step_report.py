"""What is said of each step: the progress line, metrics.jsonl, and what was not finite."""

import collections
import math
from collections.abc import Collection, Mapping

from flax_sd.config import Config
from flax_sd.system.precision import scales_loss
from flax_sd.system.progress import Display, Progress
from flax_sd.training import optim
from flax_sd.training.monitoring.memory import SpillWatch, memory
from flax_sd.training.monitoring.nonfinite import Guard
from flax_sd.training.monitoring.throughput import Pace, columns
from flax_sd.training.monitoring.trackers import Trackers
from flax_sd.training.step import Metrics

RECENT = 50  # steps whose mean loss the progress line shows


class StepReport:
    """Checks, shows and logs the metrics of the steps.

    Attributes:
      pace: how fast the steps go.
      guard: which of them were not finite.
    """

    def __init__(
        self,
        config: Config,
        total: int,
        trackers: Trackers,
        progress: Progress,
        pace: Pace,
        guard: Guard,
    ):
        """Says nothing yet; `total` is the steps of the whole run."""
        self.pace, self.guard = pace, guard
        self._config, self._total = config, total
        self._trackers, self._progress, self._spill = trackers, progress, SpillWatch(progress)
        self._scaled = scales_loss(config.compute_dtype)
        self._recent = collections.deque[float](maxlen=RECENT)  # losses that the line shows
        self._unlogged: list[float] = []  # losses since the last line of the log

    def see(self, step: int, metrics: Metrics, line: Display) -> tuple[str, ...]:
        """Counts and shows a step; the first look at its metrics waits for the device.

        Returns:
          The names of the step's pictures if it is skipped, none if it is good.
        """
        loss = float(metrics.loss)
        skipped = self.guard.see(step, loss, bool(metrics.failed), bool(metrics.skipped))
        if self.guard.problem:
            return skipped
        if skipped:
            self._progress.say(self.guard.notice(step, loss, skipped))
        self.pace.stepped()
        if math.isfinite(loss):
            self._recent.append(loss)
            self._unlogged.append(loss)
        line.update(step, f"loss {_mean(self._recent, loss):.4f}", *columns(self.pace.values()))
        return skipped

    def log(
        self,
        step: int,
        metrics: Metrics,
        skipped: tuple[str, ...],
        evaluated: Mapping[str, float],
    ) -> None:
        """Writes the step's line of metrics.jsonl.

        Args:
          skipped: as `see` returned it.
          evaluated: further figures of the step.

        Raises:
          UserError: it cannot be written.
        """
        self._spill.look()
        guard = self.guard
        without = guard.total + guard.overflows - bool(skipped) - bool(metrics.skipped)
        updates = step - 1 - without  # which the schedule counts
        values = {
            "loss": _mean(self._unlogged, float(metrics.loss)),
            "grad_norm": float(metrics.grad_norm),
            "lr": optim.learning_rate_at(self._config.optim, updates, self._total),
        }
        if self._scaled:
            values["loss_scale"] = float(metrics.loss_scale)
        counts = {"skipped": guard.total, "overflows": guard.overflows}
        values |= {name: count for name, count in counts.items() if count}
        self._unlogged.clear()
        said = {**values, **self.pace.values(), **memory(), **evaluated}
        self._trackers.log(step, said, skipped)


def _mean(losses: Collection[float], otherwise: float) -> float:
    """Returns the mean of losses: one step's alone says mostly which timesteps it drew."""
    return math.fsum(losses) / len(losses) if losses else otherwise
