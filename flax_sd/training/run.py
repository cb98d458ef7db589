"""A training run from its config to its files, in the order of the data."""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import yaml
from flax import nnx
from jax.sharding import Mesh

from flax_sd.config import Config, to_dict
from flax_sd.errors import UserError
from flax_sd.reports.run_report import LiveReport
from flax_sd.run_folder import environment as environment_record
from flax_sd.run_folder import lock, saved_config
from flax_sd.run_folder import pictures as same_data
from flax_sd.run_folder.layout import CHECKPOINTS_FOLDER, METRICS, VAL_LOSS
from flax_sd.system import distributed, memory, sharding
from flax_sd.system.precision import resolve_dtype, scales_loss
from flax_sd.system.progress import Progress
from flax_sd.system.signals import STOPPED, StopRequest
from flax_sd.training import checkpoint_trial, environment, optim
from flax_sd.training import step as train_step
from flax_sd.training.checkpoints import Checkpoints
from flax_sd.training.due import Due
from flax_sd.training.inputs import class_images, data_check
from flax_sd.training.inputs.batches import feed, prepare
from flax_sd.training.inputs.datasets import (
    Sets,
    describe,
    few_measured,
    make_stream,
    open_sets,
    order_of,
    total_steps,
)
from flax_sd.training.loop import Loop
from flax_sd.training.monitoring.memory import advice, warn_if_too_large
from flax_sd.training.monitoring.nonfinite import Guard
from flax_sd.training.monitoring.throughput import Pace, peak_flops
from flax_sd.training.monitoring.trackers import Trackers
from flax_sd.training.outputs.final_results import Results
from flax_sd.training.outputs.preview_samplers import Interrupted, make_drawer
from flax_sd.training.outputs.results import Outputs
from flax_sd.training.outputs.samples import Samples
from flax_sd.training.outputs.summary import summary
from flax_sd.training.setup.base_model import load_model
from flax_sd.training.setup.task import Objective, make_objective, trained_size
from flax_sd.training.step import TrainState
from flax_sd.training.validation.log import ValidationLog
from flax_sd.training.validation.validation import Validation, Verdict, exhausted, keeps_best
from flax_sd.weights.model import Model

# Why a run may end at once, before the first step and after the last.
BEFORE = "nothing is trained yet that is not saved; the same command goes on from there"
AFTER = "every step is saved; the same command writes what is missing"


def run(config: Config) -> int:
    """Trains, or goes on training; returns the exit status: 0, or 130 when told to stop early.

    Raises:
      UserError: anything about the config, the model, the pictures or the folder is wrong.
    """
    progress, config = Progress(), saved_config.settled(config)
    progress.say(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest(BEFORE))
        mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
        check_batch(config, mesh)
        checkpoint_trial.check_name(config.output)
        moved = saved_config.check(config)
        lock.refuse_if_held(config.output)
        dtype = resolve_dtype(config.compute_dtype)
        class_images.draw(config, progress)
        sets = open_sets(config)
        if not sets.shards:  # which have a ledger of their own
            same_data.check(config.output, sets.train)
        report = data_check.check(config, sets)
        progress.stage("found", report.text())
        for line in few_measured(sets):
            progress.say(line)
        model = load_model(config, dtype)
        # Nothing else may hold the objective: the run lets go of what is in it.
        work = Run(config, sets, model, make_objective(config, model), mesh, progress, stop)
        progress.stage("loaded", f"{config.model.path} in {dtype}")
        saved_config.check_content(config, moved, lambda: environment.facts(config, sets, model))
        stack.enter_context(lock.held(config.output))
        saved_config.write(config)
        if not sets.shards:
            same_data.write(config.output, sets.train)
        report.write(config.output)
        return work.go(stack)


def check_batch(config: Config, mesh: Mesh) -> None:
    """Sees that each part of a batch divides over the devices.

    Raises:
      UserError: it does not.
    """
    train = config.train
    try:
        sharding.process_rows(train.batch_size // train.accumulate, mesh)
    except UserError as error:
        parts = f" in {train.accumulate} parts (train.accumulate)" if train.accumulate > 1 else ""
        raise UserError(f"train.batch_size {train.batch_size}{parts}: {error}") from error


class Run:
    """The arrays of a run and what is done with them; it is the loop's `Hooks`."""

    def __init__(
        self,
        config: Config,
        sets: Sets,
        model: Model,
        objective: Objective,
        mesh: Mesh,
        progress: Progress,
        stop: StopRequest,
    ):
        self.config, self.sets, self.model = config, sets, model
        self.objective, self.mesh, self.progress, self.stop = objective, mesh, progress, stop
        self.total, self.order = total_steps(config, sets.train), order_of(config, sets.train)
        self.scaled = scales_loss(config.compute_dtype)
        self.tx = optim.make_optimizer(config.optim, self.total)
        self.stream = make_stream(config, sets, progress)
        self.outputs = Outputs(config, model, sets.train)
        self.results = Results(self.outputs, sets.train, config, progress)
        new = sets.measured.get(VAL_LOSS, sets.train)  # what it was not trained on shows most
        drawer = make_drawer(config, model, new, lambda: stop.reason is not None)
        self.samples = Samples(config, drawer) if drawer else None
        self.report = LiveReport(config.output, self.total, progress)

    def go(self, stack: contextlib.ExitStack) -> int:
        """Restores, trains, exports; returns the exit status. What it opens, the stack closes."""
        if self.stream is not None:
            self.stream.ledger.begin()
        folder = self.config.output / CHECKPOINTS_FOLDER
        keep = self.config.checkpoint.keep
        checkpoints = Checkpoints(folder, keep, lambda: self.best)
        stack.enter_context(contextlib.closing(checkpoints))
        stack.enter_context(distributed.together())  # before closing them waits for other processes
        stack.enter_context(self.report.of_an_error())
        stack.enter_context(memory.explained(self._smaller))
        start, state = self._restore(checkpoints)
        self.log = ValidationLog(self.config.output, start or -1)
        if self.outputs.finished_step() == start and self._done(start):
            self._write_missing(state, checkpoints)
            self.progress.say(f"{self.config.output} is finished at step {start}")
            return 0
        made_with = environment.facts(self.config, self.sets, self.model)
        environment_record.record(self.config.output, start, made_with)
        self._prepare()
        trackers = self._open_trackers(start, made_with)
        self.trackers = stack.enter_context(contextlib.closing(trackers))
        if start == 0:
            self._look_before(state)
        if not self._done(start):
            start, state = self._train(start, state, checkpoints, stack)
            checkpoints.wait()
            self.stop.at_once = AFTER
            if distributed.any_process(self.stop.reason is not None):
                reason = self.stop.reason or "another process was told to stop"
                self.progress.say(
                    f"{reason}: saved at step {start}; the same command goes on from there"
                )
                self.report.write("stopped")
                return STOPPED
        self._finish(start, state, checkpoints)
        return 0

    def _smaller(self) -> list[str]:
        """Flags for want of memory."""
        batch = self.config.train.batch_size
        parts = ["a smaller --train.batch_size, or a larger --train.accumulate"] * (batch > 1)
        return [*parts, *advice(self.config, self.mesh.size, 0), "flax-sd plan says what fits"]

    def _write_missing(self, state: TrainState, checkpoints: Checkpoints) -> None:
        if self.outputs.missing():
            self.results.write(state.learned, self.objective)
        if self.best is not None and self.outputs.missing(best=True):
            self.results.write_best(self.best, state, checkpoints, self.objective)

    @property
    def best(self) -> int | None:
        """The step whose state is kept as the best one, if any is."""
        return self.log.best() if keeps_best(self.config) else None

    def _done(self, step: int) -> bool:
        return step >= self.total or exhausted(self.config, self.log)

    def _prepare(self) -> None:
        """Encodes what need be encoded only once, and lets go of what has then done its work."""
        before = self.objective
        self.inputs, measured, self.objective, self.frozen = prepare(
            self.config, before, self.model, self.sets, self.mesh, self.progress
        )
        for name in before.frozen.keys() - self.frozen.keys():
            network = self.model.networks.pop(name)
            if self.samples is not None:  # which draws with it: it waits in main memory
                nnx.update(network, jax.tree.map(np.array, nnx.state(network)))
        self.log.rewind()
        self.validation = Validation(
            self.sets, measured, self.objective.measure, self.mesh, self.log, self.progress
        )

    def _restore(self, checkpoints: Checkpoints) -> tuple[int, TrainState]:
        fresh = train_step.init_state(
            self.objective.params,
            self.tx,
            self.config.seed,
            scaled=self.scaled,
            averaged=self.config.train.ema_decay is not None,
        )
        state = sharding.replicate(fresh, self.mesh)
        restored = checkpoints.restore_newest(state)
        length = describe(self.config, self.sets.train)
        count = f"{trained_size(self.objective):,} numbers to train, {length}"
        if restored is None:
            checkpoint_trial.try_checkpoints(checkpoints.folder)
            self.progress.stage("begins", count)
            return 0, state
        self.progress.stage("resumes", f"step {restored[0]}; {count}")
        return restored

    def _open_trackers(self, start: int, made_with: Mapping[str, Any]) -> Trackers:
        log = self.config.log
        return Trackers(
            self.config.output,
            tensorboard=log.tensorboard,
            wandb=log.wandb,
            config=to_dict(self.config),
            environment=made_with,
            resumed_at=start or None,
            changed=self.report.refresh,
        )

    def _train(
        self,
        start: int,
        state: TrainState,
        checkpoints: Checkpoints,
        stack: contextlib.ExitStack,
    ) -> tuple[int, TrainState]:
        step = train_step.make_train_step(
            self.objective.loss,
            self.tx,
            accumulate=self.config.train.accumulate,
            scaled=self.scaled,
            ema_decay=self.config.train.ema_decay,
            constrain=self.objective.constrain,
            mesh=self.mesh,
        )
        batches = feed(self.config, self.inputs, self.mesh, start, self.stream)
        stack.enter_context(contextlib.closing(batches))
        warn_if_too_large(state, self.frozen, self.progress)
        loop = Loop(
            self.config,
            self.total,
            step,
            checkpoints,
            self.trackers,
            self.progress,
            self.stop,
            self,
            Due(self.config, self.order),
            self._pace(),
            self._guard(start),
        )
        return loop.run(start, state, self.frozen, batches)

    def _pace(self) -> Pace:
        devices = self.mesh.devices.flatten()
        peak = peak_flops(devices[0].device_kind, resolve_dtype(self.config.compute_dtype))
        return Pace(None if peak is None else peak * len(devices))

    def _guard(self, start: int) -> Guard:
        """Stands where the run does."""
        config, train = self.config, self.sets.train

        def pictures(step: int) -> list[str]:
            if self.stream is not None:
                return self.stream.names(step - 1)
            return [train.names[i] for i in self.order.shown(step - 1)]

        guard = Guard(config.train, pictures)
        guard.resume(config.output / METRICS, start)
        return guard

    def measured(self, step: int, state: TrainState) -> Verdict:
        """The losses of the pictures that stay the same, and what they say of the run.

        Raises:
          UserError: one is not finite.
        """
        if step:
            self.progress.stage("trained", f"to step {step}")
        values, curves = self.validation.measure(step, state.learned, self.frozen)
        self.trackers.show(step, curves)
        enough = exhausted(self.config, self.log)
        if enough:
            patience = self.config.validation.patience
            self.progress.say(f"val_loss has not surely improved {patience} times: this is the end")
        return Verdict(values, self.best == step, enough)

    def saving(self, step: int, state: TrainState) -> None:
        """The LoRA of every checkpoint, since people choose the best one."""
        self.outputs.save(step, state.learned)

    def sampled(self, step: int, state: TrainState) -> None:
        """A grid, unless it was drawn before a kill."""
        if self.samples is not None and not self.samples.has(step):
            with contextlib.suppress(Interrupted):
                self._show_grid(step, self.samples.grid(step, state.learned))

    def _look_before(self, state: TrainState) -> None:
        """Loss and pictures of the model as it was."""
        if values := self.measured(0, state).values:
            self.trackers.log(0, values)
        if self.config.sample.at_first:
            self.sampled(0, state)

    def _show_grid(self, step: int, grid: np.ndarray) -> None:
        self.trackers.image(step, "samples", grid)
        assert self.samples is not None
        self.progress.stage("sampled", str(self.samples.path(step)))

    def _finish(self, step: int, state: TrainState, checkpoints: Checkpoints) -> None:
        """All that the trained model is asked for; a killed run does it again."""
        self.results.write(state.learned, self.objective)
        if self.best is not None:
            self.results.write_best(self.best, state, checkpoints, self.objective)
        if self.samples is not None:
            grid, sheet = self.samples.finish(step, state.learned)
            self._show_grid(step, grid)
            if sheet is not None:
                self.trackers.image(step, "before_after", sheet)
                self.progress.stage("before and after", str(self.samples.sheet))
        self.report.write("finished")
        self.outputs.mark_finished(step)
        for line in summary(self.config, self.best, early=step < self.total):
            self.progress.say(line)
