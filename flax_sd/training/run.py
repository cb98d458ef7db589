"""A training run from its config to its files, in the order of the data."""

import contextlib

import jax
import numpy as np
import yaml
from flax import nnx
from jax.sharding import Mesh

from flax_sd.config import Config, to_dict
from flax_sd.config.file import Given
from flax_sd.files.json_values import JsonObject
from flax_sd.reports.run_report import LiveReport
from flax_sd.run_folder import environment as environment_record
from flax_sd.run_folder import lock, saved_config
from flax_sd.run_folder import pictures as same_data
from flax_sd.run_folder.layout import CHECKPOINTS_FOLDER, METRICS, VAL_LOSS
from flax_sd.system import distributed, memory, sharding
from flax_sd.system.exit_status import DONE, STOPPED
from flax_sd.system.precision import resolve_dtype, scales_loss
from flax_sd.system.progress import Progress
from flax_sd.system.signals import StopRequest
from flax_sd.training import checkpoint_self_test, environment, optim, prediction_check
from flax_sd.training import step as train_step
from flax_sd.training.announcement import show_options, what_happens
from flax_sd.training.checkpoints import Checkpoints
from flax_sd.training.due import Due
from flax_sd.training.inputs import class_images, data_check
from flax_sd.training.inputs.batches import Inputs, check_batch, feed, prepare
from flax_sd.training.inputs.datasets import (
    Sets,
    describe,
    make_stream,
    open_sets,
    order_of,
    too_few_evaluated,
    total_steps,
)
from flax_sd.training.loop import Loop
from flax_sd.training.losses import Trees
from flax_sd.training.milestones import Milestones
from flax_sd.training.monitoring.memory import advice, warn_if_too_large
from flax_sd.training.monitoring.nonfinite import Guard
from flax_sd.training.monitoring.step_report import StepReport
from flax_sd.training.monitoring.throughput import Pace, peak_flops
from flax_sd.training.monitoring.trackers import Trackers
from flax_sd.training.outputs.final_results import Results
from flax_sd.training.outputs.preview_samplers import make_preview_sampler
from flax_sd.training.outputs.results import Outputs
from flax_sd.training.outputs.samples import Samples
from flax_sd.training.outputs.summary import summary
from flax_sd.training.setup.base_model import load_model
from flax_sd.training.setup.task import TrainTask, make_task, trained_size
from flax_sd.training.start_results import StartResults, start_key
from flax_sd.training.step import TrainState
from flax_sd.training.validation.log import ValidationLog
from flax_sd.training.validation.validation import Validation, best_step, patience_exhausted
from flax_sd.weights.model import Model

# Why a run may end at once, before the first step and after the last.
BEFORE = "nothing unsaved is lost; run the same command again to resume"
AFTER = "every step is saved; run the same command again to write the missing results"


def run(config: Config, given: Given | None = None, *, verbose: bool = False) -> int:
    """Trains, or resumes training; returns the exit status: 0, or 130 when told to stop early.

    Args:
      config: every option of the run.
      given: how the config was given; its options are printed.
      verbose: all options are, and every finding on the images.

    Raises:
      UserError: anything about the config, the model, the images or the folder is wrong.
    """
    progress, config = Progress(verbose=verbose), saved_config.settled(config)
    if verbose:
        progress.say(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))
    elif given is not None:
        show_options(config, given.path, given.flags, progress)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest(BEFORE))
        mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
        check_batch(config, mesh)
        checkpoint_self_test.check_name(config.output)
        moved = saved_config.check(config)
        lock.refuse_if_held(config.output)
        dtype = resolve_dtype(config.compute_dtype)
        class_images.generate(config, progress)
        sets = open_sets(config)
        if not sets.shards:  # a stream has a ledger
            same_data.check(config.output, sets.train)
        report = data_check.check(config, sets)
        progress.stage("found", report.text() if verbose else report.brief())
        for line in too_few_evaluated(sets):
            progress.say(line)
        model = load_model(config, dtype)
        # Nothing else may hold the task: the run frees parts of it.
        whole = Run(config, sets, model, make_task(config, model), mesh, progress, stop)
        device = mesh.devices.flatten()[0].device_kind
        progress.stage("loaded", f"{config.model.path} in {dtype}, for {mesh.size} x {device}")
        saved_config.check_content(config, moved, lambda: environment.facts(config, sets, model))
        stack.enter_context(lock.held(config.output))
        saved_config.write(config)
        if not sets.shards:
            same_data.write(config.output, sets.train)
        report.write(config.output)
        return whole.go(stack)


class Run:
    """A run: its data, model, optimizer and outputs."""

    def __init__(
        self,
        config: Config,
        sets: Sets,
        model: Model,
        task: TrainTask,
        mesh: Mesh,
        progress: Progress,
        stop: StopRequest,
    ):
        """Takes what was found and loaded; nothing is written yet."""
        self.config, self.sets, self.model = config, sets, model
        self.task, self.mesh, self.progress, self.stop = task, mesh, progress, stop
        self.order, total = order_of(config, sets.train), total_steps(config, sets.train)
        self.due = Due(config, self.order, total)
        self.tx = optim.make_optimizer(config.optim, total)
        self.stream = make_stream(config, sets, progress)
        self.outputs = Outputs(config, model, sets.train)
        self.results = Results(self.outputs, sets.train, config, progress)
        # Images that it was not trained on tell most.
        new = sets.evaluated.get(VAL_LOSS, sets.train)
        sampler = make_preview_sampler(config, model, new, lambda: stop.reason is not None)
        self.samples = Samples(config, sampler) if sampler else None
        self.report = LiveReport(config.output, total, progress)

    def go(self, stack: contextlib.ExitStack) -> int:
        """Restores, trains and writes the results; returns the exit status.

        The stack closes what this opens.
        """
        if self.stream is not None:
            self.stream.ledger.begin()
        folder = self.config.output / CHECKPOINTS_FOLDER
        checkpoints = Checkpoints(folder, self.config.checkpoint.keep)
        stack.enter_context(contextlib.closing(checkpoints))
        # Before closing, which waits for other processes.
        stack.enter_context(distributed.exit_with_peers())
        stack.enter_context(self.report.of_an_error())
        stack.enter_context(memory.explain_out_of_memory(self._smaller))
        start, state = self._restore(checkpoints)
        log = ValidationLog(self.config.output, start or -1)
        if self.outputs.finished_step() == start and self._is_done(start, log):
            self._write_missing(state, log, checkpoints)
            self.progress.say(f"{self.config.output} is finished at step {start}")
            return DONE
        for line in what_happens(self.config):
            self.progress.say(line)
        made_with = environment.facts(self.config, self.sets, self.model)
        environment_record.record(self.config.output, start, made_with)
        known = self._known(start, made_with)  # before _prepare, which frees a part of the model
        inputs, validation, frozen = self._prepare(log)
        trackers = self._open_trackers(start, made_with)
        stack.enter_context(contextlib.closing(trackers))
        milestones = Milestones(
            self.config.model.path,
            validation,
            checkpoints,
            self.outputs,
            self.samples,
            trackers,
            self.progress,
            known,
        )
        if start == 0:
            self._check_prediction(state.learned, frozen, inputs)
            milestones.begin(state, frozen)
        if not self._is_done(start, log):
            batches = feed(self.config, inputs, self.mesh, start, self.stream)
            stack.enter_context(contextlib.closing(batches))
            warn_if_too_large(state, frozen, self.progress)
            loop = self._loop(start, milestones, trackers)
            start, state = loop.run(start, state, frozen, batches)
            checkpoints.wait()
            self.stop.at_once = AFTER
            if self._was_stopped(start):
                return STOPPED
        self._finish(start, state, log, checkpoints, milestones)
        return DONE

    def _known(self, start: int, made_with: JsonObject) -> StartResults:
        """Returns what is known of the model before its first step, if that is to be shown."""
        samples = self.samples
        sampled = samples is not None and samples.first_wanted
        if start or not (self.sets.evaluated or sampled):
            return StartResults(None)
        prompts = samples.prompts if samples is not None else []
        return StartResults(start_key(self.config, made_with, self.model, prompts))

    def _check_prediction(self, learned: Trees, frozen: Trees, inputs: Inputs) -> None:
        batches = feed(self.config, inputs, self.mesh, 0, self.stream)
        leaves, loss = (learned, frozen), self.task.eval_loss
        prediction_check.check(self.config, loss, leaves, self.mesh, batches, self.progress)

    def _smaller(self) -> list[str]:
        """Returns flags that need less memory."""
        batch = self.config.train.batch_size
        parts = (
            ["a smaller --train.batch_size, or a larger --train.accumulate"] if batch > 1 else []
        )
        return [*parts, *advice(self.config, self.mesh.size, 0), "flax-sd plan says what fits"]

    def _restore(self, checkpoints: Checkpoints) -> tuple[int, TrainState]:
        """Returns the step and the state of the newest checkpoint, or 0 and a new state."""
        fresh = train_step.init_state(
            self.task.params,
            self.tx,
            self.config.seed,
            scaled=scales_loss(self.config.compute_dtype),
            averaged=self.config.train.ema_decay is not None,
        )
        state = sharding.replicate(fresh, self.mesh)
        restored = checkpoints.restore_newest(state)
        length = describe(self.config, self.sets.train)
        count = f"{trained_size(self.task):,} trained parameters, {length}"
        if restored is None:
            checkpoint_self_test.try_checkpoints(checkpoints.folder)
            self.progress.stage("begins", count)
            return 0, state
        self.progress.stage("resumes", f"step {restored[0]}; {count}")
        return restored

    def _is_done(self, step: int, log: ValidationLog) -> bool:
        return step >= self.due.total or patience_exhausted(self.config, log)

    def _write_missing(
        self, state: TrainState, log: ValidationLog, checkpoints: Checkpoints
    ) -> None:
        """Writes the results of a finished run that were deleted since."""
        if self.outputs.missing():
            self.results.write(state.learned, self.task)
        best = best_step(self.config, log)
        if best is not None and self.outputs.missing(best=True):
            self.results.write_best(best, state, checkpoints, self.task)

    def _prepare(self, log: ValidationLog) -> tuple[Inputs, Validation, Trees]:
        """Encodes the data set once, then frees the VAE and, if it is frozen, the text encoder."""
        before = set(self.task.frozen)
        prepared = prepare(self.config, self.task, self.model, self.sets, self.mesh, self.progress)
        self.task = prepared.task
        for name in before - prepared.frozen.keys():
            network = self.model.networks.pop(name)
            if self.samples is not None:  # which need it: it waits in main memory
                nnx.update(network, jax.tree.map(np.array, nnx.state(network)))
        log.rewind()
        loss, evaluated = prepared.task.eval_loss, prepared.evaluated
        validation = Validation(
            self.config, self.sets, evaluated, loss, self.mesh, log, self.progress
        )
        return prepared.train, validation, prepared.frozen

    def _open_trackers(self, start: int, made_with: JsonObject) -> Trackers:
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

    def _loop(self, start: int, milestones: Milestones, trackers: Trackers) -> Loop:
        config, scaled = self.config, scales_loss(self.config.compute_dtype)
        step = train_step.make_train_step(
            self.task.loss,
            self.tx,
            accumulate=config.train.accumulate,
            scaled=scaled,
            ema_decay=config.train.ema_decay,
            constrain=self.task.constrain,
            mesh=self.mesh,
        )
        report = StepReport(
            config, self.due.total, trackers, self.progress, self._pace(), self._guard(start)
        )
        return Loop(config, step, self.due, milestones, report, self.progress, self.stop)

    def _pace(self) -> Pace:
        devices = self.mesh.devices.flatten()
        peak = peak_flops(devices[0].device_kind, resolve_dtype(self.config.compute_dtype))
        return Pace(None if peak is None else peak * len(devices))

    def _guard(self, start: int) -> Guard:
        """Makes the guard, with the counts of the steps before this start."""
        config, train = self.config, self.sets.train

        def images(step: int) -> list[str]:
            if self.stream is not None:
                return self.stream.names(step - 1)
            return [train.names[i] for i in self.order.shown(step - 1)]

        guard = Guard(config.train, images)
        guard.resume(config.output / METRICS, start)
        return guard

    def _was_stopped(self, step: int) -> bool:
        """Tells if any process was told to stop, and reports it."""
        if not distributed.any_process(self.stop.reason is not None):
            return False
        reason = self.stop.reason or "another process was told to stop"
        self.progress.say(f"{reason}: saved at step {step}; run the same command again to resume")
        self.report.write("stopped")
        return True

    def _finish(
        self,
        step: int,
        state: TrainState,
        log: ValidationLog,
        checkpoints: Checkpoints,
        milestones: Milestones,
    ) -> None:
        """Writes results, samples and report; a killed run does it again."""
        best = best_step(self.config, log)
        self.results.write(state.learned, self.task)
        if best is not None:
            self.results.write_best(best, state, checkpoints, self.task)
        milestones.finish(step, state)
        self.report.write("finished")
        self.outputs.mark_finished(step)
        for line in summary(self.config, best, early=step < self.due.total):
            self.progress.say(line)
