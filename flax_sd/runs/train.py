"""A training run from its config to its files, in the order of the data."""

import contextlib
import math

import yaml
from jax.sharding import Mesh

from flax_sd import data, optim, sharding, train_step
from flax_sd.checkpoint import Checkpoints
from flax_sd.config import Config, to_dict
from flax_sd.progress import Progress
from flax_sd.runs import latents, resume
from flax_sd.runs.evaluate import HeldOut
from flax_sd.runs.feed import feed
from flax_sd.runs.loop import Loop
from flax_sd.runs.objective import Objective, make_objective, resolve_dtype, trained_size
from flax_sd.runs.outputs import Outputs
from flax_sd.runs.parts import Parts, load_parts
from flax_sd.runs.samples import Samples
from flax_sd.signals import StopRequest
from flax_sd.tracking import Trackers
from flax_sd.train_step import TrainState


def run(config: Config) -> int:
    """Trains, or goes on training; returns the exit status: 0, or 130 when told to stop early.

    Raises:
      UserError: anything about the config, the model, the pictures or the folder is wrong.
    """
    progress = Progress()
    progress.say(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    sharding.process_rows(config.train.batch_size // config.train.accumulate, mesh)
    resume.check(config)
    dtype = resolve_dtype(config)
    pictures = data.open_pictures(config.data)
    progress.stage("found", data.summary(pictures))
    parts = load_parts(config, dtype)
    objective = make_objective(config, parts)
    progress.stage("loaded", f"{config.model.path} in {dtype}")
    total = total_steps(config, len(pictures))
    resume.write(config)
    with Run(config, parts, objective, mesh, progress, total) as training:
        return training.go(pictures)


def total_steps(config: Config, pictures: int) -> int:
    """The smaller of train.steps and the steps of train.epochs."""
    train = config.train
    if train.epochs is None:
        return train.steps
    return min(train.steps, math.ceil(train.epochs * pictures / train.batch_size))


class Run(contextlib.ExitStack):
    """The open files and the arrays of a run."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        objective: Objective,
        mesh: Mesh,
        progress: Progress,
        total: int,
    ):
        super().__init__()
        self.config, self.parts, self.objective = config, parts, objective
        self.mesh, self.progress, self.total = mesh, progress, total
        self.scaled = resolve_dtype(config) == "float16"
        self.tx = optim.make_optimizer(config.optim, total)
        self.frozen = sharding.shard_frozen(objective.frozen, mesh)
        self.outputs = Outputs(config, parts)
        self.samples = Samples(config, parts) if config.sample.prompts else None
        self.held_out = self._open_held_out()

    def go(self, pictures: data.Pictures) -> int:
        """Restores, trains, exports; the exit status."""
        checkpoints = self.enter_context(
            contextlib.closing(Checkpoints(self.config.output / "checkpoints", self.config.checkpoint.keep))
        )
        start, state = self._restore(checkpoints)
        if start >= self.total and not self.outputs.missing():
            self.progress.say(f"{self.config.output} is finished at step {start}; nothing to do")
            return 0
        trackers = self.enter_context(contextlib.closing(self._open_trackers(start)))
        if start == 0:
            self._measure(0, state, trackers)
        if start < self.total:
            stop = self.enter_context(StopRequest())
            batches = feed(
                self.config,
                pictures,
                self.parts.tokenizer,
                self.objective,
                self.frozen,
                self.mesh,
                start,
            )
            self.enter_context(contextlib.closing(batches))
            step = train_step.make_train_step(
                self.objective.loss, self.tx, accumulate=self.config.train.accumulate, scaled=self.scaled
            )
            loop = Loop(
                self.config, self.total, step, checkpoints, trackers, self.progress, stop, self
            )
            start, state = loop.run(start, state, self.frozen, batches)
            checkpoints.wait()
            if start < self.total:
                self.progress.say(
                    f"{stop.reason}: saved at step {start}; the same command goes on from there"
                )
                return 130
        self._measure(self.total, state, trackers)
        self._finish(state, pictures)
        return 0

    def saved(self, step: int, state: TrainState) -> None:
        """After a checkpoint: the LoRA of that step, for people choose the best one."""
        self.outputs.save(step, state.params)

    def sampled(self, step: int, state: TrainState) -> None:
        """Every sample.every steps: a grid."""
        if self.samples is not None:
            self.samples.grid(step, state.params)

    def _open_held_out(self) -> HeldOut | None:
        if self.config.data.held_out is None:
            return None
        return HeldOut(self.config, self.objective, self.parts.tokenizer, self.frozen, self.mesh)

    def _open_trackers(self, start: int) -> Trackers:
        log = self.config.log
        return Trackers(
            self.config.output,
            tensorboard=log.tensorboard,
            wandb=log.wandb,
            config=to_dict(self.config),
            resumed_at=start or None,
        )

    def _restore(self, checkpoints: Checkpoints) -> tuple[int, TrainState]:
        fresh = train_step.init_state(
            self.objective.params, self.tx, self.config.seed, scaled=self.scaled
        )
        state = sharding.replicate(fresh, self.mesh)
        restored = checkpoints.restore_newest(state)
        count = f"{trained_size(self.objective):,} numbers to train, {self.total} steps"
        if restored is None:
            self.progress.stage("begins", count)
            return 0, state
        self.progress.stage("resumes", f"step {restored[0]}; {count}")
        return restored

    def _measure(self, step: int, state: TrainState, trackers: Trackers) -> None:
        """The held-out loss and the sample pictures at the start or the end."""
        if self.held_out is not None:
            value = self.held_out.loss(state.params, self.frozen)
            trackers.log(step, {"val_loss": value})
            self.progress.stage(
                "measured", f"loss on {self.held_out.count} held-out pictures {value:.4f}"
            )
        if self.samples is not None and not self.samples.has(step):
            path = self.samples.grid(step, state.params)
            self.progress.stage("sampled", str(path))

    def _finish(self, state: TrainState, pictures: data.Pictures) -> None:
        changed = {}
        if self.config.train.mode == "vae":
            scale = latents.scaling_factor(self.objective, state.params, self.frozen, pictures)
            changed = {"scaling_factor": round(scale, 5)}
            self.progress.stage("measured", f"scaling_factor of the latents {scale:.5f}")
        for path in self.outputs.finish(state.params, self.frozen, changed):
            self.progress.stage("written", str(path))
        if self.samples is not None and self.samples.has(0):
            self.progress.stage("before and after", str(self.samples.before_after(self.total)))
