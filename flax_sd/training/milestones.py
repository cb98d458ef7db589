"""What a run does between its steps: evaluate, save, generate samples."""

import contextlib

import numpy as np

from flax_sd.system.progress import COMPILES, Progress
from flax_sd.training.checkpoints import Checkpoints
from flax_sd.training.losses import Trees
from flax_sd.training.monitoring.trackers import Trackers
from flax_sd.training.outputs.preview_samplers import Interrupted
from flax_sd.training.outputs.results import Outputs
from flax_sd.training.outputs.samples import Samples
from flax_sd.training.start_results import KNOWN, StartResults
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
        start: StartResults,
    ):
        """Takes the parts that do the work; without `samples` none are generated."""
        self._validation, self._checkpoints, self._outputs = validation, checkpoints, outputs
        self._samples, self._trackers, self._progress = samples, trackers, progress
        self._start = start

    def begin(self, model: str, images: int, state: TrainState, frozen: Trees) -> None:
        """Evaluates and samples the model before its first step, or takes what is known of it.

        Args:
          model: its name.
          images: number of those that it is evaluated on.

        Raises:
          UserError: a loss is not finite.
        """
        if images:
            with self._first(f"evaluating {images} images with {model}", self._start.losses):
                self._trackers.log(0, self.evaluate(0, state, frozen).values)
        if self._samples is not None and self._samples.first_wanted:
            with self._first(f"generating the first samples with {model}", self._start.images):
                self.sample(0, state)

    def _first(self, name: str, known: object) -> contextlib.AbstractContextManager[None]:
        """Says that work begins, unless its result is known."""
        new = known is None
        return self._progress.work(name, COMPILES) if new else contextlib.nullcontext()

    def evaluate(self, step: int, state: TrainState, frozen: Trees) -> Verdict:
        """Evaluates the model on fixed images: is it the best so far, and does the run end?

        Raises:
          UserError: a loss is not finite.
        """
        if step:
            self._progress.stage("trained", f"to step {step}")
        verdict, curves = self._validation.evaluate(step, state.learned, frozen, self._start)
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
        if self._samples is None or self._samples.has(step):
            return
        known = self._start.images if step == 0 else None
        with contextlib.suppress(Interrupted):
            images = self._samples.images(state.learned) if known is None else known
            if step == 0 and known is None:
                self._start.keep_images(images)
            self._show(step, self._samples.write(step, images), "" if known is None else KNOWN)

    def _show(self, step: int, grid: np.ndarray, whence: str = "") -> None:
        assert self._samples is not None
        self._trackers.image(step, "samples", grid)
        self._progress.stage("sampled", f"{self._samples.path(step)}{whence}")

    def finish(self, step: int, state: TrainState) -> None:
        """Generates the last grid, and the sheet of images before and after the run."""
        if self._samples is None:
            return
        grid, sheet = self._samples.finish(step, state.learned)
        self._show(step, grid)
        if sheet is not None:
            self._trackers.image(step, "before_after", sheet)
            self._progress.stage("before and after", str(self._samples.sheet))
