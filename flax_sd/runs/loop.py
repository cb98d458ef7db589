"""The training loop: batches in, metrics out, a checkpoint every so often, a clean end."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from flax_sd import optim, sharding
from flax_sd.checkpoint import Checkpoints
from flax_sd.config import Config
from flax_sd.errors import UserError
from flax_sd.progress import Progress
from flax_sd.signals import StopRequest
from flax_sd.tracking import Trackers
from flax_sd.train_step import Metrics, TrainState

Step = Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]


class Hooks(Protocol):
    """What happens beside the steps."""

    def saved(self, step: int, state: TrainState) -> None:
        """After a checkpoint of that step."""

    def sampled(self, step: int, state: TrainState) -> None:
        """Every sample.every steps."""


class Loop:
    """Runs the steps from where the state stands to the last one."""

    def __init__(
        self,
        config: Config,
        total: int,
        step: Step,
        checkpoints: Checkpoints,
        trackers: Trackers,
        progress: Progress,
        stop: StopRequest,
        hooks: Hooks,
    ):
        self._config, self._total, self._step = config, total, step
        self._checkpoints, self._trackers = checkpoints, trackers
        self._progress, self._stop, self._hooks = progress, stop, hooks
        self._since, self._done_since = time.monotonic(), 0

    def run(
        self, start: int, state: TrainState, frozen: Any, batches: Iterator[Any]
    ) -> tuple[int, TrainState]:
        """Trains to the end, or to the step at which a signal asked to stop; steps done, state.

        Metrics of a step are read when the next one is under way, so the device never waits.

        Raises:
          UserError: the loss is not finite; the state on disk is the last good one.
        """
        pending: tuple[int, Metrics] | None = None
        done, stopping = start, False
        with self._progress.steps(self._total, start) as self._shown:
            while done < self._total and not stopping:
                state, metrics = self._step(state, frozen, next(batches))
                done += 1
                if pending is not None:
                    self._report(*pending)
                pending = (done, metrics)
                stopping = sharding.any_process(self._stop.reason is not None)
                if self._due(done, self._config.checkpoint.every) or stopping:
                    self._report(*pending)  # nothing non-finite is ever saved
                    pending = None
                    self._checkpoints.save(done, state)
                    self._hooks.saved(done, state)
                if self._config.sample.every and done % self._config.sample.every == 0:
                    self._hooks.sampled(done, state)
        return done, state

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self._total

    def _report(self, step: int, metrics: Metrics) -> None:
        """Checks and shows the metrics of a step; the first to run waits for the device."""
        loss = float(metrics.loss)
        if bool(metrics.failed):
            raise UserError(
                f"step {step}: the loss or its gradient is not finite (loss {loss}). The last "
                "checkpoint is good. What usually helps: a lower optim.learning_rate, "
                "compute_dtype bfloat16 or float32 in place of float16"
            )
        self._done_since += 1
        rate = self._rate()
        self._shown.update(step, loss, rate)
        if self._due(step, self._config.log.every):
            self._trackers.log(
                step,
                {
                    "loss": loss,
                    "grad_norm": float(metrics.grad_norm),
                    "lr": optim.learning_rate_at(self._config.optim, step - 1, self._total),
                    "images_per_second": rate,
                },
            )
            self._since, self._done_since = time.monotonic(), 0

    def _rate(self) -> float:
        elapsed = max(time.monotonic() - self._since, 1e-9)
        return self._config.train.batch_size * self._done_since / elapsed
