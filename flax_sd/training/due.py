"""After which steps a run evaluates, saves and draws: every so many of them, or of its epochs."""

from flax_sd import data
from flax_sd.config import Config


class Due:
    """Says what is due after a step; an epoch ends in the step that shows its last picture.

    Attributes:
      total: the last step of the run.
    """

    def __init__(self, config: Config, order: data.Order, total: int):
        self._config, self._order, self.total = config, order, total

    def measures(self, step: int) -> bool:
        """Whether to evaluate what is held out: as the config says, and after the last step."""
        return step == self.total or self._is_due(step, self._config.validation.every, None)

    def saves(self, step: int) -> bool:
        """Whether to save: as the config says, and after the last step."""
        own = self._config.checkpoint
        return step == self.total or self._is_due(step, own.every, own.every_epochs)

    def samples(self, step: int) -> bool:
        """Whether to draw samples; those of the first and the last step are drawn in any case."""
        sample = self._config.sample
        between = 0 < step < self.total
        return between and self._is_due(step, sample.every, sample.every_epochs)

    def _is_due(self, step: int, steps: int | None, epochs: int | None) -> bool:
        if steps is not None and step % steps == 0:
            return True
        if epochs is None:
            return False
        before, after = (self._order.epochs(n) // epochs for n in (step - 1, step))
        return after > before
