"""Evaluates a run between its steps, and decides about the best state and early stopping."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from jax.sharding import Mesh

from flax_sd.config import Config
from flax_sd.errors import UserError
from flax_sd.run_folder.layout import TRAIN_SUBSET
from flax_sd.system.progress import Progress
from flax_sd.training.inputs.batches import Inputs
from flax_sd.training.inputs.datasets import Sets
from flax_sd.training.losses import Loss, Trees
from flax_sd.training.start_results import KNOWN, StartResults
from flax_sd.training.validation.evaluator import Evaluator
from flax_sd.training.validation.log import Evaluated, Losses, ValidationLog


class Verdict(NamedTuple):
    """The result of an evaluation.

    Attributes:
      values: values for the step's line in metrics.jsonl.
      best: the state is the best so far, and is to be saved.
      stop: the run is to end, since validation.patience is exhausted.
    """

    values: Mapping[str, float] = {}
    best: bool = False
    stop: bool = False


def best_step(config: Config, log: ValidationLog) -> int | None:
    """Returns the step with the best state; None if the run keeps none."""
    return None if config.validation.every is None else log.best()


def patience_exhausted(config: Config, log: ValidationLog) -> bool:
    """Tells if validation.patience is exhausted."""
    patience = config.validation.patience
    return patience is not None and log.without_improvement() >= patience


class Validation:
    """The sets to evaluate on, and their log."""

    def __init__(
        self,
        config: Config,
        sets: Sets,
        inputs: Mapping[str, Inputs],
        loss: Loss,
        mesh: Mesh,
        log: ValidationLog,
        progress: Progress,
    ):
        """Loads the images onto the devices.

        Raises:
          UserError: an image can no longer be read.
        """
        self._config, self._log, self._progress = config, log, progress
        self._names = {name: sets.evaluated[name].names for name in inputs}
        self._sets = {name: Evaluator(given, loss, mesh) for name, given in inputs.items()}

    @property
    def images(self) -> int:
        """Number of images in all sets."""
        return sum(map(len, self._names.values()))

    @property
    def best(self) -> int | None:
        """The step with the best state so far, if the run keeps it."""
        return best_step(self._config, self._log)

    def evaluate(
        self, step: int, params: Trees, frozen: Trees, start: StartResults
    ) -> tuple[Verdict, dict[str, float]]:
        """Evaluates every set; returns the verdict, and the losses by timestep.

        Args:
          start: has the losses of step 0 if they are known, and keeps them if they are not.

        Raises:
          UserError: a loss is not finite, or the log cannot be written.
        """
        values, curves, found = {}, {}, {}
        known = start.losses if step == 0 else None
        for name, evaluator in self._sets.items():
            found[name] = known[name] if known else evaluator.losses(params, frozen)
            losses = Losses(self._names[name], found[name])
            evaluated = self._log.add(step, name, losses, evaluator.bands)
            loss, change = evaluated
            kind = "training" if name == TRAIN_SUBSET else "held-out"
            if not math.isfinite(loss.mean):
                raise UserError(
                    f"step {step}: {name}, the loss on {kind} images, is {loss.mean}: a weight "
                    "of the model is not finite, or the numbers overflow in this compute_dtype"
                )
            said = _described(evaluated, f"{len(losses.names)} {kind} images")
            self._progress.stage("evaluated", f"{name} {said}{KNOWN if known else ''}")
            values |= {name: loss.mean, f"{name}_ci": loss.half}
            if change is not None:
                values |= {f"{name}_change": change.mean, f"{name}_change_ci": change.half}
            for (first, last), mean in zip(evaluator.bands, losses.curve, strict=False):
                curves[f"{name}/t{first:03}-{last:03}"] = mean
        if step == 0 and not known:
            start.keep_losses(found)
        stop = patience_exhausted(self._config, self._log)
        if stop:
            patience = self._config.validation.patience
            self._progress.say(
                f"val_loss has not improved significantly in {patience} evaluations: "
                "the run ends early"
            )
        return Verdict(values, self.best == step, stop), curves


def _described(evaluated: Evaluated, images: str) -> str:
    """Returns "0.0576 ± 0.0041 on 12 held-out images, -0.0103 ± 0.0012 since step 0"."""
    loss, change = evaluated
    text = f"{loss.mean:.4f} ± {loss.half:.4f} on {images}"
    if change is not None:
        moved = f"{change.mean:+.4f} ± {change.half:.4f}"
        text += f", {moved}" if change.clear else f", no measurable change ({moved})"
        text += " since step 0"
    return text.replace(" ± nan", "")
