"""The sets of captioned pictures of a run: those it trains on, and those it measures a loss on."""

import hashlib
from typing import Any, NamedTuple

from flax_sd import data
from flax_sd.config import Config
from flax_sd.errors import UserError

# The names in metrics.jsonl of what is measured.
VAL_LOSS, BASE_LOSS, TRAIN_SUBSET = "val_loss", "base_loss", "train_subset"


class Sets(NamedTuple):
    """Opened pictures; those whose loss is measured by its name.

    Attributes:
      train: of a stream, those of its first shard, by which the set is judged before the run.
      shards: of a stream.
    """

    train: data.Pictures
    measured: dict[str, data.Pictures]
    shards: tuple[data.Shard, ...] = ()

    def all(self) -> list[data.Pictures]:
        """Every set, the training set first."""
        return [self.train, *self.measured.values()]


def reads_captions(config: Config) -> bool:
    """Whether the run's mode needs captions beside the pictures."""
    return config.train.mode != "ddpm"


def open_sets(config: Config) -> Sets:
    """Opens every picture once; measured pictures are cut alike in every run.

    Raises:
      UserError: they cannot be read, or cannot be divided.
    """
    captioned, share = reads_captions(config), config.data.held_out_share
    shards = data.find_shards(config.data.path) if config.data.stream else ()
    train = (
        _first(config, shards) if shards else data.open_pictures(config.data, captioned=captioned)
    )
    paths = {VAL_LOSS: config.data.held_out, BASE_LOSS: config.data.held_out_base}
    fixed = {"center_crop": True, "random_flip": False, "max_pictures": None}
    fixed |= {"mask": "none", "unmasked_weight": 0.0, "mask_normalised": False}
    fixed |= {"shuffle_tags": False, "keep_tags": 0, "tag_dropout": 0.0, "tag_separator": ","}
    alone = {**fixed, "folders": {}, "repeats": 1, "stream": False}
    alone |= {"regularisation": None, "prior_weight": 1.0}
    measured = {
        name: data.open_pictures(
            config.data.model_copy(update={**alone, "path": path}), captioned=captioned
        )
        for name, path in paths.items()
        if path is not None
    }
    if share is not None:
        held_out = config.data.model_copy(update=fixed)
        train, own = data.split(train, share, held_out)
        measured = {VAL_LOSS: own, **measured}
    if config.validation.every and VAL_LOSS in measured:
        measured[TRAIN_SUBSET] = _subset(train, len(measured[VAL_LOSS]), fixed)
    return Sets(train, measured, shards)


def _first(config: Config, shards: tuple[data.Shard, ...]) -> data.Pictures:
    """The pictures of the first shard, of which at least one must be good."""
    pictures = data.open_shard(shards[0], config.data, captioned=reads_captions(config))
    if not len(pictures):
        lines = [f"{name}: {reason}" for name, reason in pictures.bad] or ["it holds none"]
        head = f"no picture of {shards[0].name}, the first of {len(shards)} shards, can be used:"
        raise UserError("\n  ".join([head, *lines]))
    return pictures


def _subset(pictures: data.Pictures, count: int, fixed: dict[str, Any]) -> data.Pictures:
    """So many of them, or all, chosen by their names alone."""
    digests = [hashlib.sha256(name.encode()).digest() for name in pictures.names]
    chosen = sorted(range(len(pictures)), key=lambda i: (digests[i], i))[:count]
    return pictures.subset(sorted(chosen), pictures.cfg.model_copy(update=fixed))
