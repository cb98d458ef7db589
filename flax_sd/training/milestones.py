"""What a run does between its steps: evaluate, save, generate samples."""

import contextlib

import numpy as np
from jaxtyping import UInt8

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
        model: str,
        validation: Validation,
        checkpoints: Checkpoints,
        outputs: Outputs,
        samples: Samples | None,
        trackers: Trackers,
        progress: Progress,
        start: StartResults,
    ):
        """Takes the parts that do the work; without `samples` none are generated.

        Args:
          model: its name.
          start: what is known of the model before its first step.
        """
        self._model, self._start, self._begun = model, start, set[str]()
        self._validation, self._checkpoints, self._outputs = validation, checkpoints, outputs
        self._samples, self._trackers, self._progress = samples, trackers, progress

    def begin(self, state: TrainState, frozen: Trees) -> None:
        """Evaluates and samples the model before its first step, or takes what is known of it.

        Raises:
          UserError: a loss is not finite.
        """
        if self._validation.images:
            self._trackers.log(0, self.evaluate(0, state, frozen).values)
        if self._samples is not None and self._samples.first_wanted:
            self.sample(0, state)

    def evaluate(self, step: int, state: TrainState, frozen: Trees) -> Verdict:
        """Evaluates the model on fixed images: is it the best so far, and does the run end?

        Raises:
          UserError: a loss is not finite.
        """
        if step:
            self._progress.stage("trained", f"to step {step}")
        images = self._validation.images
        known = step == 0 and self._start.losses is not None
        with self._work(f"evaluating {images} images", known=known or not images):
            verdict, curves = self._validation.evaluate(step, state.learned, frozen, self._start)
        self._trackers.show(step, curves)
        return verdict

    def _work(self, name: str, known: bool) -> contextlib.AbstractContextManager[None]:
        """Says that work with the model begins, unless its result is known."""
        if known:
            return contextlib.nullcontext()
        new = name not in self._begun
        self._begun.add(name)
        return self._progress.work(f"{name} with {self._model}", COMPILES if new else "")

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
            images = self._images(state) if known is None else known
            if step == 0 and known is None:
                self._start.keep_images(images)
            self._show(step, self._samples.write(step, images), "" if known is None else KNOWN)

    def _images(self, state: TrainState) -> UInt8[np.ndarray, "n h w 3"]:
        """Generates the images of the samples; raises Interrupted if the run is to end."""
        assert self._samples is not None
        count = self._samples.count
        images = "1 sample" if count == 1 else f"{count} samples"
        with self._work(f"generating {images}", known=False):
            return self._samples.images(state.learned)

    def _show(self, step: int, grid: np.ndarray, whence: str = "") -> None:
        assert self._samples is not None
        self._trackers.image(step, "samples", grid)
        self._progress.stage("sampled", f"{self._samples.path(step)}{whence}")

    def finish(self, step: int, state: TrainState) -> None:
        """Generates the last grid, and the sheet of images before and after the run."""
        if self._samples is None:
            return
        grid, sheet = self._samples.finish(step, self._images(state))
        self._show(step, grid)
        if sheet is not None:
            self._trackers.image(step, "before_after", sheet)
            self._progress.stage("before and after", str(self._samples.sheet))
