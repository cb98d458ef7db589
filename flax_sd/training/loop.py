"""The training loop: batches in, metrics out, a checkpoint every so often, a clean end."""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, NoReturn, Protocol, runtime_checkable

import jax

from flax_sd.config import Config
from flax_sd.data.images.image_file import Size
from flax_sd.run_folder.layout import PROFILE_FOLDER
from flax_sd.system import distributed
from flax_sd.system.flops import count_flops
from flax_sd.system.precision import scales_loss
from flax_sd.system.progress import Progress
from flax_sd.system.signals import StopRequest
from flax_sd.training import optim
from flax_sd.training.checkpoints import Checkpoints
from flax_sd.training.due import Due
from flax_sd.training.inputs.batches import Fed
from flax_sd.training.monitoring.memory import SpillWatch, memory
from flax_sd.training.monitoring.nonfinite import Guard
from flax_sd.training.monitoring.profiler import Profile
from flax_sd.training.monitoring.throughput import Pace, Work
from flax_sd.training.monitoring.trackers import Trackers
from flax_sd.training.step import Metrics, TrainState
from flax_sd.training.validation.validation import Verdict

Step = Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]
RECENT = 50  # steps whose mean loss the progress line shows
ASK_EVERY = 8  # steps between two questions whether another process was told to stop


@runtime_checkable  # as the shape-checked tests need
class Hooks(Protocol):
    """What happens beside the steps."""

    def measured(self, step: int, state: TrainState) -> Verdict:
        """Measures, and judges whether the state is to be kept and the run to go on."""
        ...

    def saving(self, step: int, state: TrainState) -> None:
        """Before a checkpoint; done again where a killed run repeats the step."""

    def sampled(self, step: int, state: TrainState) -> None:
        """Where samples are due but after the last step; again at the step where a run resumes."""


class Loop:
    """Runs the steps from where the state stands to the last one, or until it is enough."""

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
        due: Due,
        pace: Pace,
        guard: Guard,
    ):
        self._config, self._total, self._step = config, total, step
        self._checkpoints, self._trackers = checkpoints, trackers
        self._progress, self._stop, self._hooks, self._due = progress, stop, hooks, due
        self._pace, self._guard, self._spill = pace, guard, SpillWatch(progress)
        self._flops: dict[Size, int] = {}  # of a step, by the pictures' shape
        self._scaled = scales_loss(config.compute_dtype)
        self._recent = collections.deque[float](maxlen=RECENT)  # losses that the line shows
        self._unlogged: list[float] = []  # losses since the last line of the log

    def run(
        self, start: int, state: TrainState, frozen: Any, batches: Iterator[Fed]
    ) -> tuple[int, TrainState]:
        """Trains to the end, or to the step at which a signal asked to stop; steps done, state.

        Metrics of a step are read when the next one is under way, so the device never waits, and
        never are more than two under way, each with its temporaries.

        Raises:
          UserError: too many steps were not finite; the state on disk is the last good one.
        """
        pending: tuple[int, Metrics] | None = None
        done, stopping = start, False
        self._sample(start, state)
        profile = Profile(self._config.profile, self._config.output / PROFILE_FOLDER)
        steps = self._progress.steps(self._total, start)
        with contextlib.closing(profile), steps as self._shown:
            while done < self._total and not stopping:
                asked = time.monotonic()
                fed = next(batches)
                self._pace.got_batch(asked, pending is None or _is_ready(pending[1].loss))
                new = fed.shape not in self._flops
                program = "the training step at {} x {}".format(*fed.shape)
                if new:
                    self._shown.compiling(program)
                self._pace.begins(self._work(state, frozen, fed))
                profile.before(done + 1)
                with jax.profiler.StepTraceAnnotation("train", step_num=done + 1):
                    state, metrics = self._step(state, frozen, fed.batch)
                if new:  # the call returns when the step is compiled
                    self._progress.stage("compiled", program)
                self._stop.at_once = None  # from here on there is something to save
                done += 1
                if profile.after(done, metrics.loss):
                    self._progress.say(f"trace written to {self._config.output / 'profile'}")
                if pending is not None:
                    self._report(*pending)
                pending = (done, metrics)
                last = done == self._total
                measuring = last or self._due.measures(done)
                saving = last or self._due.saves(done)
                stopping = self._must_stop(done, saving or measuring)
                if saving or stopping or measuring or self._guard.in_row:
                    verdict = self._report(*pending, state if measuring else None)
                    saving, stopping = saving or verdict.best, stopping or verdict.enough
                    pending = None
                if self._guard.problem:
                    self._give_up(start, done, state)
                if saving or stopping:  # after the report: nothing non-finite is ever saved
                    self._save(done, state)
                self._sample(done, state)
        return done, state

    def _work(self, state: TrainState, frozen: Any, fed: Fed) -> Work:
        """What a step does; a shape is traced once, and the first step of it not again."""
        if fed.shape not in self._flops:
            self._flops[fed.shape] = count_flops(self._step, state, frozen, fed.batch)
        return Work(fed.pictures, self._flops[fed.shape])

    def _must_stop(self, done: int, pausing: bool) -> bool:
        """Whether any process was told to stop; between processes, asked at the same steps only."""
        if jax.process_count() > 1 and not pausing and done % ASK_EVERY:
            return False
        return distributed.any_process(self._stop.reason is not None)

    def _save(self, done: int, state: TrainState) -> None:
        self._hooks.saving(done, state)
        self._checkpoints.save(done, state)

    def _give_up(self, start: int, done: int, state: TrainState) -> NoReturn:
        """Saves the state before the steps that failed, unless a good one has changed it since."""
        assert self._guard.problem is not None
        failed = self._guard.in_row
        if failed and done - failed > start:
            self._save(done - failed, state._replace(step=state.step - failed))
        raise self._guard.problem

    def _sample(self, done: int, state: TrainState) -> None:
        if 0 < done < self._total and self._due.samples(done):
            with self._pace.paused():
                self._hooks.sampled(done, state)

    def _report(self, step: int, metrics: Metrics, measured: TrainState | None = None) -> Verdict:
        """Checks and shows the metrics of a step; the first to run waits for the device.

        Args:
          measured: the state after the step, if it is to be measured; the step is then logged.
        """
        loss = float(metrics.loss)
        overflow = bool(metrics.skipped)
        skipped = self._guard.see(step, loss, bool(metrics.failed), overflow)
        if self._guard.problem:
            return Verdict()
        if skipped:
            self._progress.say(self._guard.notice(step, loss, skipped))
        self._pace.stepped()
        pace = self._pace.values()
        if math.isfinite(loss):
            self._recent.append(loss)
            self._unlogged.append(loss)
        self._shown.update(step, _mean(self._recent, loss), pace)
        if step % self._config.log.every and measured is None and not skipped:
            return Verdict()
        self._spill.look()
        verdict = Verdict()
        if measured is not None:
            with self._pace.paused():
                verdict = self._hooks.measured(step, measured)
        without = self._guard.total + self._guard.overflows - bool(skipped) - overflow
        updates = step - 1 - without  # which the schedule counts
        values = {
            "loss": _mean(self._unlogged, loss),
            "grad_norm": float(metrics.grad_norm),
            "lr": optim.learning_rate_at(self._config.optim, updates, self._total),
        }
        if self._scaled:
            values["loss_scale"] = float(metrics.loss_scale)
        for name, count in (("skipped", self._guard.total), ("overflows", self._guard.overflows)):
            if count:
                values[name] = count
        self._unlogged.clear()
        self._trackers.log(step, {**values, **pace, **memory(), **verdict.values}, skipped)
        return verdict


def _mean(losses: Collection[float], otherwise: float) -> float:
    """Returns the mean of losses: one step's alone says mostly which timesteps it drew."""
    return math.fsum(losses) / len(losses) if losses else otherwise


def _is_ready(array: Any) -> bool:
    """Whether the devices have come to it; jax.Array's declaration leaves the method out."""
    return array.is_ready()
