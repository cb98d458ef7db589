"""The training loop: batches in, metrics out, a checkpoint every so often, a clean end."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax

from flax_sd.config import Config
from flax_sd.data.images.image_file import Size
from flax_sd.run_folder.layout import PROFILE_FOLDER
from flax_sd.system import distributed
from flax_sd.system.flops import count_flops
from flax_sd.system.progress import Display, Progress
from flax_sd.system.signals import StopRequest
from flax_sd.training.due import Due
from flax_sd.training.inputs.batches import Fed
from flax_sd.training.losses import Trees
from flax_sd.training.milestones import Milestones
from flax_sd.training.monitoring.profiler import Profile
from flax_sd.training.monitoring.step_report import StepReport
from flax_sd.training.monitoring.throughput import Work
from flax_sd.training.step import Metrics, TrainState
from flax_sd.training.validation.validation import Verdict

Step = Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]
ASK_EVERY = 8  # steps between two questions whether another process was told to stop


class Loop:
    """Runs the steps from where the state stands to the last one, or until it is enough."""

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
        """Takes the jitted step, what stands beside the steps, and when that is due."""
        self._config, self._step, self._due = config, step, due
        self._milestones, self._report = milestones, report
        self._progress, self._stop = progress, stop
        self._flops: dict[Size, int] = {}  # of a step, by the pictures' shape

    def run(
        self, start: int, state: TrainState, frozen: Trees, batches: Iterator[Fed]
    ) -> tuple[int, TrainState]:
        """Trains to the end, or to the step at which a signal asked to stop; steps done, state.

        Metrics of a step are read when the next one is under way, so the device never waits, and
        never are more than two under way, each with its temporaries.

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
                fed = next(batches)
                idle = pending is None or _is_ready(pending[1].loss)
                self._report.pace.got_batch(asked, idle)
                profile.before(done + 1)
                state, metrics = self._take(done + 1, state, frozen, fed, line)
                done += 1
                if profile.after(done, metrics.loss):
                    self._progress.say(f"trace written to {self._config.output / 'profile'}")
                if pending is not None:
                    self._tell(*pending, line)
                pending = (done, metrics)
                evaluating, saving = self._due.measures(done), self._due.saves(done)
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
        self, number: int, state: TrainState, frozen: Trees, fed: Fed, line: Display
    ) -> tuple[TrainState, Metrics]:
        """Starts a step; says so where it has to be compiled for the shape of its pictures."""
        new = fed.shape not in self._flops
        program = "the training step at {} x {}".format(*fed.shape)
        if new:
            line.compiling(program)
            self._flops[fed.shape] = count_flops(self._step, state, frozen, fed.batch)
        self._report.pace.begins(Work(fed.pictures, self._flops[fed.shape]))
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            state, metrics = self._step(state, frozen, fed.batch)
        if new:  # the call returns when the step is compiled
            self._progress.stage("compiled", program)
        self._stop.at_once = None  # from here on there is something to save
        return state, metrics

    def _tell(
        self,
        step: int,
        metrics: Metrics,
        line: Display,
        judged: tuple[TrainState, Trees] | None = None,
    ) -> Verdict:
        """Checks, shows and logs a step.

        Args:
          judged: the state after the step and the frozen leaves, if it is to be evaluated; the step
            is then logged.
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
        """Whether any process was told to stop; between processes, asked at the same steps only."""
        if jax.process_count() > 1 and not pausing and done % ASK_EVERY:
            return False
        return distributed.any_process(self._stop.reason is not None)

    def _give_up(self, start: int, done: int, state: TrainState) -> NoReturn:
        """Saves the state before the steps that failed, unless a good one has changed it since."""
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
    """Whether the devices have come to it; jax.Array's declaration leaves the method out."""
    return array.is_ready()
