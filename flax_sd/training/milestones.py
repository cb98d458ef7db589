"""What a run does between its steps: evaluate, save, generate samples."""

import contextlib

import numpy as np

from flax_sd.system.progress import Progress
from flax_sd.training.checkpoints import Checkpoints
from flax_sd.training.losses import Trees
from flax_sd.training.monitoring.trackers import Trackers
from flax_sd.training.outputs.preview_samplers import Interrupted
from flax_sd.training.outputs.results import Outputs
from flax_sd.training.outputs.samples import Samples
from flax_sd.training.step import TrainState
from flax_sd.training.validation.validation import Validation, Verdict


class Milestones:
    """The evaluations, saves and samples of a run."""

    def __init__(
        self,
        validation: Validation,
        checkpoints: Checkpoints,
        outputs: Outputs,
        samples: Samples | None,
        trackers: Trackers,
        progress: Progress,
    ):
        """Takes the parts that do the work; without `samples` none are generated."""
        self._validation, self._checkpoints, self._outputs = validation, checkpoints, outputs
        self._samples, self._trackers, self._progress = samples, trackers, progress

    def evaluate(self, step: int, state: TrainState, frozen: Trees) -> Verdict:
        """Evaluates the model on fixed images: is it the best so far, and does the run end?

        Raises:
          UserError: a loss is not finite.
        """
        if step:
            self._progress.stage("trained", f"to step {step}")
        verdict, curves = self._validation.evaluate(step, state.learned, frozen)
        self._trackers.show(step, curves)
        return verdict

    def save(self, step: int, state: TrainState) -> None:
        """Saves the state and its LoRA, since users choose the step that they like best.

        Raises:
          UserError: this save, or the one before, could not be written.
        """
        self._outputs.save(step, state.learned)
        self._checkpoints.save(step, state, best=self._validation.best)

    def sample(self, step: int, state: TrainState) -> None:
        """Generates a grid of samples, unless it exists since before the run was killed."""
        if self._samples is not None and not self._samples.has(step):
            with contextlib.suppress(Interrupted):
                self._show(step, self._samples.grid(step, state.learned))

    def _show(self, step: int, grid: np.ndarray) -> None:
        assert self._samples is not None
        self._trackers.image(step, "samples", grid)
        self._progress.stage("sampled", str(self._samples.path(step)))

    def finish(self, step: int, state: TrainState) -> None:
        """Generates the last grid, and the sheet of images before and after the run."""
        if self._samples is None:
            return
        grid, sheet = self._samples.finish(step, state.learned)
        self._show(step, grid)
        if sheet is not None:
            self._trackers.image(step, "before_after", sheet)
            self._progress.stage("before and after", str(self._samples.sheet))
