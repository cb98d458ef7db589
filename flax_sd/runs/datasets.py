"""The sets of captioned pictures of a run: those it trains on, and those it measures a loss on."""

from typing import NamedTuple

from flax_sd import data
from flax_sd.config import Config

VAL_LOSS, BASE_LOSS = "val_loss", "base_loss"  # in metrics.jsonl


class Sets(NamedTuple):
    """Opened pictures; those held out by the name of their loss."""

    train: data.Pictures
    held_out: dict[str, data.Pictures]

    def all(self) -> list[data.Pictures]:
        """Every set, the training set first."""
        return [self.train, *self.held_out.values()]


def open_sets(config: Config) -> Sets:
    """Opens every picture once; held-out pictures are cut alike in every run.

    Raises:
      UserError: they cannot be read.
    """
    train = data.open_pictures(config.data)
    paths = {VAL_LOSS: config.data.held_out, BASE_LOSS: config.data.held_out_base}
    fixed = {"center_crop": True, "random_flip": False, "max_pictures": None}
    fixed |= {"shuffle_tags": False, "keep_tags": 0, "tag_dropout": 0.0, "tag_separator": ","}
    held_out = {
        name: data.open_pictures(config.data.model_copy(update={**fixed, "path": path}))
        for name, path in paths.items()
        if path is not None
    }
    return Sets(train, held_out)
