"""The steps after which a run evaluates, saves and generates samples: every N steps or epochs."""

from flax_sd import data
from flax_sd.config import Config


class Due:
    """Tells what is due after a step; an epoch ends with the step that shows its last image.

    Attributes:
      total: the last step of the run.
    """

    def __init__(self, config: Config, order: data.Order, total: int):
        self._config, self._order, self.total = config, order, total

    def evaluates(self, step: int) -> bool:
        """Tells if held-out images are evaluated: as the config says, and after the last step."""
        return step == self.total or self._is_due(step, self._config.validation.every, None)

    def saves(self, step: int) -> bool:
        """Tells if the run saves: as the config says, and after the last step."""
        own = self._config.checkpoint
        return step == self.total or self._is_due(step, own.every, own.every_epochs)

    def samples(self, step: int) -> bool:
        """Tells if to generate samples; the first and the last step are not asked about here."""
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
