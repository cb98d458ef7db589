"""Reports of the steps: the progress line, metrics.jsonl, and steps that were not finite."""

import collections
import math
from collections.abc import Collection, Mapping

from flax_sd.config import Config
from flax_sd.system.precision import scales_loss
from flax_sd.system.progress import Display, Progress
from flax_sd.training import optim
from flax_sd.training.monitoring.memory import SpillWatch, memory
from flax_sd.training.monitoring.nonfinite import Guard
from flax_sd.training.monitoring.throughput import Pace, columns, details
from flax_sd.training.monitoring.trackers import Trackers
from flax_sd.training.step import Metrics

RECENT = 50  # steps whose mean loss the progress line shows


class StepReport:
    """Checks, shows and logs the metrics of the steps.

    Attributes:
      pace: the speed of the steps.
      guard: counts of steps that were not finite.
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
        """Takes the parts that report; `total` is the number of steps of the whole run."""
        self.pace, self.guard = pace, guard
        self._config, self._total = config, total
        self._trackers, self._progress, self._spill = trackers, progress, SpillWatch(progress)
        self._scaled = scales_loss(config.compute_dtype)
        self._recent = collections.deque[float](maxlen=RECENT)  # losses that the line shows
        self._unlogged: list[float] = []  # losses since the last line of the log

    def see(self, step: int, metrics: Metrics, line: Display) -> tuple[str, ...]:
        """Counts and shows a step; waits until the device has its metrics.

        Returns:
          The names of the step's images if it is skipped, none if it is good.
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
        line.update(
            step,
            f"loss {_mean(self._recent, loss):.4f}",
            f"lr {self._rate(step, metrics, skipped):.2e}",
            *columns(self.pace.values(), self.pace.steps_per_second()),
            below=lambda: self._below(metrics),
        )
        return skipped

    def _rate(self, step: int, metrics: Metrics, skipped: tuple[str, ...]) -> float:
        """Returns the learning rate of a step."""
        guard = self.guard
        without = guard.total + guard.overflows - bool(skipped) - bool(metrics.skipped)
        updates = step - 1 - without  # as the schedule counts
        return optim.learning_rate_at(self._config.optim, updates, self._total)

    def _below(self, metrics: Metrics) -> list[str]:
        """Returns the figures for the line below the progress line."""
        norm = f"grad norm {float(metrics.grad_norm):.3g}"
        return [norm, *details({**memory(), **self.pace.values()})]

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
          evaluated: further values of the step.

        Raises:
          UserError: it cannot be written.
        """
        self._spill.look()
        guard = self.guard
        values = {
            "loss": _mean(self._unlogged, float(metrics.loss)),
            "grad_norm": float(metrics.grad_norm),
            "lr": self._rate(step, metrics, skipped),
        }
        if self._scaled:
            values["loss_scale"] = float(metrics.loss_scale)
        counts = {"skipped": guard.total, "overflows": guard.overflows}
        values |= {name: count for name, count in counts.items() if count}
        self._unlogged.clear()
        values |= {**self.pace.values(), **memory(), **evaluated}
        self._trackers.log(step, values, skipped)


def _mean(losses: Collection[float], otherwise: float) -> float:
    """Returns the mean of losses: the loss of one step depends mostly on its timesteps."""
    return math.fsum(losses) / len(losses) if losses else otherwise
