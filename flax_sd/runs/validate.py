"""Measuring a run beside its steps: which sets, and what becomes of the figures."""

import math
from collections.abc import Mapping

from jax.sharding import Mesh

from flax_sd.errors import UserError
from flax_sd.losses import Loss, Trees
from flax_sd.progress import Progress
from flax_sd.runs.datasets import Sets
from flax_sd.runs.evaluate import Evaluator
from flax_sd.runs.inputs import Inputs
from flax_sd.runs.validation_log import Losses, Measured, ValidationLog


class Validation:
    """The sets whose loss is measured, and the log of that."""

    def __init__(
        self,
        sets: Sets,
        inputs: Mapping[str, Inputs],
        loss: Loss,
        mesh: Mesh,
        log: ValidationLog,
        progress: Progress,
    ):
        """Puts the pictures on the devices.

        Raises:
          UserError: a picture cannot be read any more.
        """
        self._log, self._progress = log, progress
        self._names = {name: sets.held_out[name].names for name in inputs}
        self._sets = {name: Evaluator(given, loss, mesh) for name, given in inputs.items()}

    def measure(self, step: int, params: Trees, frozen: Trees) -> dict[str, float]:
        """Measures every set; returns the figures for metrics.jsonl.

        Raises:
          UserError: a loss is not finite, or the log cannot be written.
        """
        values = {}
        for name, evaluator in self._sets.items():
            losses = Losses(self._names[name], evaluator.losses(params, frozen))
            measured = self._log.add(step, name, losses, evaluator.bands)
            loss, change = measured
            if not math.isfinite(loss.mean):
                raise UserError(
                    f"step {step}: {name}, the loss on held-out pictures, is {loss.mean}: a weight "
                    "of the model is not finite, or the numbers overflow in this compute_dtype"
                )
            self._progress.stage("measured", _said(name, measured, len(losses.names)))
            values |= {name: loss.mean, f"{name}_ci": loss.half}
            if change is not None:
                values |= {f"{name}_change": change.mean, f"{name}_change_ci": change.half}
        return values


def _said(name: str, measured: Measured, count: int) -> str:
    """As "val_loss 0.0576 ± 0.0041 on 12 held-out pictures, -0.0103 ± 0.0012 since step 0"."""
    loss, change = measured
    text = f"{name} {loss.mean:.4f} ± {loss.half:.4f} on {count} held-out pictures"
    if change is not None:
        text += f", {change.mean:+.4f} ± {change.half:.4f} since step 0"
    return text.replace(" ± nan", "")
