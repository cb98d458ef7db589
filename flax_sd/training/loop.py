"""The training loop: batches in, metrics out, checkpoints between them, a clean end."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
from jaxtyping import PyTree

from flax_sd.config import Config
from flax_sd.data.images.image_file import Size
from flax_sd.run_folder.layout import PROFILE_FOLDER
from flax_sd.system import distributed
from flax_sd.system.flops import count_flops
from flax_sd.system.progress import Display, Progress
from flax_sd.system.signals import StopRequest
from flax_sd.training.due import Due
from flax_sd.training.inputs.batches import StepBatch
from flax_sd.training.losses import Trees
from flax_sd.training.milestones import Milestones
from flax_sd.training.monitoring.profiler import Profile
from flax_sd.training.monitoring.step_report import StepReport
from flax_sd.training.monitoring.throughput import StepWork
from flax_sd.training.step import Metrics, TrainState
from flax_sd.training.validation.validation import Verdict

Step = Callable[[TrainState, Trees, PyTree], tuple[TrainState, Metrics]]
STOP_CHECK_INTERVAL = 8  # steps between two checks if another process was told to stop


class Loop:
    """Runs the steps that are left, or fewer if the run is told to stop or validation ends it."""

    def __init__(
        self,
        config: Config,
        step: Step,
        due: Due,
        milestones: Milestones,
        report: StepReport,
        progress: Progress,
        stop: StopRequest,
    ):
        """Takes the jitted step, what is done between the steps, and when that is due."""
        self._config, self._step, self._due = config, step, due
        self._milestones, self._report = milestones, report
        self._progress, self._stop = progress, stop
        self._flops: dict[Size, int] = {}  # of a step, by the shape of its images

    def run(
        self, start: int, state: TrainState, frozen: Trees, batches: Iterator[StepBatch]
    ) -> tuple[int, TrainState]:
        """Trains to the end, or until a signal asks to stop; returns the steps done and the state.

        The metrics of a step are read while the next one runs, so the device never waits. At most
        two steps, each with its temporary arrays, are queued at a time.

        Raises:
          UserError: too many steps were not finite; the state on disk is the last good one.
        """
        pending: tuple[int, Metrics] | None = None
        done, stopping, guard = start, False, self._report.guard
        self._sample(start, state)
        profile = Profile(self._config.profile, self._config.output / PROFILE_FOLDER)
        steps = self._progress.loop(self._due.total, start, "step")
        with contextlib.closing(profile), steps as line:
            while done < self._due.total and not stopping:
                asked = time.monotonic()
                loaded = next(batches)
                idle = pending is None or _is_ready(pending[1].loss)
                self._report.pace.got_batch(asked, idle)
                profile.before(done + 1)
                state, metrics = self._take(done + 1, state, frozen, loaded)
                done += 1
                if profile.after(done, metrics.loss):
                    self._progress.say(f"trace written to {self._config.output / 'profile'}")
                if pending is not None:
                    self._tell(*pending, line)
                pending = (done, metrics)
                evaluating, saving = self._due.evaluates(done), self._due.saves(done)
                stopping = self._must_stop(done, saving or evaluating)
                if saving or stopping or evaluating or guard.in_row:
                    judged = (state, frozen) if evaluating else None
                    verdict = self._tell(*pending, line, judged)
                    saving, stopping = saving or verdict.best, stopping or verdict.stop
                    pending = None
                if guard.problem:
                    self._give_up(start, done, state)
                if saving or stopping:  # after the report: nothing non-finite is ever saved
                    self._milestones.save(done, state)
                self._sample(done, state)
        return done, state

    def _take(
        self, number: int, state: TrainState, frozen: Trees, loaded: StepBatch
    ) -> tuple[TrainState, Metrics]:
        """Starts a step; reports if it must be compiled for the shape of its images."""
        if loaded.shape in self._flops:
            state, metrics = self._start(number, state, frozen, loaded)
        else:
            step = "the training step at {} x {}".format(*loaded.shape)
            weights = sum(leaf.size for leaf in jax.tree.leaves((state.params, frozen)))
            name = f"compiling {step} of {loaded.images} images, {weights:,} weights"
            # The call returns when it is compiled.
            with self._progress.work(name, "once for this shape"):
                flops = count_flops(self._step, state, frozen, loaded.batch)
                self._flops[loaded.shape] = flops
                state, metrics = self._start(number, state, frozen, loaded)
            self._progress.stage("compiled", step)
        self._stop.at_once = None  # from now on there is something to save
        return state, metrics

    def _start(
        self, number: int, state: TrainState, frozen: Trees, loaded: StepBatch
    ) -> tuple[TrainState, Metrics]:
        self._report.pace.begins(StepWork(loaded.images, self._flops[loaded.shape]))
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            return self._step(state, frozen, loaded.batch)

    def _tell(
        self,
        step: int,
        metrics: Metrics,
        line: Display,
        judged: tuple[TrainState, Trees] | None = None,
    ) -> Verdict:
        """Checks, shows and logs a step.

        Args:
          judged: the state after the step and the frozen leaves, if they are to be evaluated; the
            step is then logged.
        """
        report, verdict = self._report, Verdict()
        skipped = report.see(step, metrics, line)
        due = judged is not None or skipped or step % self._config.log.every == 0
        if report.guard.problem or not due:
            return verdict
        if judged is not None:
            with report.pace.paused():
                verdict = self._milestones.evaluate(step, *judged)
        report.log(step, metrics, skipped, verdict.values)
        return verdict

    def _must_stop(self, done: int, pausing: bool) -> bool:
        """Tells if a process was told to stop; several processes check at the same steps only."""
        if jax.process_count() > 1 and not pausing and done % STOP_CHECK_INTERVAL:
            return False
        return distributed.any_process(self._stop.reason is not None)

    def _give_up(self, start: int, done: int, state: TrainState) -> NoReturn:
        """Saves the state before the failed steps, if no later step changed it, and raises."""
        guard = self._report.guard
        assert guard.problem is not None
        failed = guard.in_row
        if failed and done - failed > start:
            self._milestones.save(done - failed, state._replace(step=state.step - failed))
        raise guard.problem

    def _sample(self, done: int, state: TrainState) -> None:
        if self._due.samples(done):
            with self._report.pace.paused():
                self._milestones.sample(done, state)


def _is_ready(array: Any) -> bool:
    """Tells if the devices have computed it; the type of jax.Array lacks the method."""
    return array.is_ready()
