"""After which steps a run measures, saves and draws: every so many of them, or of its epochs."""

from flax_sd import data
from flax_sd.config import Config


class Due:
    """Says what is due after a step; an epoch ends in the step that shows its last picture."""

    def __init__(self, config: Config, order: data.Order):
        self._config, self._order = config, order

    def measures(self, step: int) -> bool:
        """Whether to measure what is held out."""
        return self._is_due(step, self._config.validation.every, None)

    def saves(self, step: int) -> bool:
        """Whether to save."""
        checkpoint = self._config.checkpoint
        return self._is_due(step, checkpoint.every, checkpoint.every_epochs)

    def samples(self, step: int) -> bool:
        """Whether to draw samples."""
        sample = self._config.sample
        return self._is_due(step, sample.every, sample.every_epochs)

    def _is_due(self, step: int, steps: int | None, epochs: int | None) -> bool:
        if steps is not None and step % steps == 0:
            return True
        if epochs is None:
            return False
        before, after = (self._order.epochs(n) // epochs for n in (step - 1, step))
        return after > before
