"""The data sets of a run: the images that it trains on, and those that it is evaluated on."""

import hashlib
import threading
from typing import NamedTuple

from flax_sd import data
from flax_sd.config import Config, DataConfig
from flax_sd.errors import UserError, listed
from flax_sd.run_folder.layout import BASE_LOSS, TRAIN_SUBSET, VAL_LOSS
from flax_sd.run_folder.shards import Ledger
from flax_sd.system.progress import Progress

NAMED_BY = {VAL_LOSS: "data.held_out", BASE_LOSS: "data.held_out_base"}
MIN_EVALUATED = 10  # images; with five, docs/walk.md cannot tell a gain of 5 % from none


class Sets(NamedTuple):
    """Opened images.

    Attributes:
      train: the images to train on; of a stream, those of its first shard.
      evaluated: the sets to evaluate on, by the name of their loss.
      shards: the shards of a stream.
    """

    train: data.Images
    evaluated: dict[str, data.Images]
    shards: tuple[data.Shard, ...] = ()

    def all(self) -> list[data.Images]:
        """Returns every set, the training set first."""
        return [self.train, *self.evaluated.values()]


def open_sets(config: Config) -> Sets:
    """Opens every image once; images to evaluate on are cropped alike in every run.

    Raises:
      UserError: they cannot be read or divided.
    """
    captioned, share = config.mode.captioned, config.data.held_out_share
    shards = ()
    if config.data.stream:
        shards, unused = data.find_all(config.data.path)
        train = _first(config, shards)
        train.unused.extend(unused)
    else:
        train = data.open_images(config.data, captioned=captioned)
    measured = {
        name: data.open_images(cfg, captioned=captioned, option=NAMED_BY[name])
        for name, cfg in _measured(config.data).items()
    }
    if share is not None:
        train, own = data.split(train, share, config.data.for_evaluation())
        measured = {VAL_LOSS: own, **measured}
    if config.validation.every and VAL_LOSS in measured:
        measured[TRAIN_SUBSET] = _subset(train, len(measured[VAL_LOSS]))
    return Sets(train, measured, shards)


def too_few_evaluated(sets: Sets) -> list[str]:
    """Returns a sentence for each set that has too few images to show a small change."""
    return [
        f"{name} is evaluated on {len(images)} image{'' if len(images) == 1 else 's'}: with "
        f"fewer than {MIN_EVALUATED} only a large change of the loss can be told from chance"
        for name, images in sets.evaluated.items()
        if name in (VAL_LOSS, BASE_LOSS) and len(images) < MIN_EVALUATED
    ]


def _measured(cfg: DataConfig) -> dict[str, DataConfig]:
    """Returns the options of the sets in other folders, by the name of their loss."""
    found = {}
    if cfg.held_out is not None:
        found[VAL_LOSS] = cfg.for_evaluation(cfg.held_out)
    if cfg.held_out_base is not None:
        # A trigger word in these captions would make learning the style look like forgetting.
        plain = cfg.for_evaluation(cfg.held_out_base)
        found[BASE_LOSS] = plain.model_copy(update={"template": "{}"})
    return found


def _first(config: Config, shards: tuple[data.Shard, ...]) -> data.Images:
    """Opens the first shard; raises UserError if none of its images can be used."""
    images = data.open_shard(shards[0], config.data, captioned=config.mode.captioned)
    if not len(images):
        lines = [f"{name}: {reason}" for name, reason in images.bad] or ["it holds none"]
        head = f"no image of {shards[0].name}, the first of {len(shards)} shards, can be used:"
        raise UserError(listed(head, lines))
    return images


def _subset(images: data.Images, count: int) -> data.Images:
    """Returns `count` images that the run trains on, or all; the choice depends on names alone."""
    pairs = zip(images.repeats, images.prior, strict=True)
    own = [i for i, (repeats, prior) in enumerate(pairs) if repeats and not prior]
    digests = [hashlib.sha256(name.encode()).digest() for name in images.names]
    chosen = sorted(own, key=lambda i: (digests[i], i))[:count]
    return images.subset(sorted(chosen), images.cfg.for_evaluation())


def total_steps(config: Config, images: data.Images) -> int:
    """Returns the smaller of train.steps and the steps of train.epochs."""
    train = config.train
    if train.epochs is None:
        return train.steps
    return min(train.steps, order_of(config, images).steps(train.epochs))


def describe(config: Config, images: data.Images) -> str:
    """Describes the steps in words, and which option ends the run if two could."""
    total, train = total_steps(config, images), config.train
    words = f"{total} steps"
    if config.data.stream:
        return words
    order = order_of(config, images)
    epoch = order.steps(1000) / 1000  # not a whole number if a batch continues into the next epoch
    words += f" of {train.batch_size}, {total / epoch:.3g} epochs"
    if train.epochs is None:
        return words
    if total == train.steps < order.steps(train.epochs):
        return f"{words}: train.steps ends the run before its {train.epochs} epochs (train.epochs)"
    return f"{words}: train.epochs ends the run"


def order_of(config: Config, images: data.Images) -> data.Order:
    """Returns the order in which the run shows the images."""
    return data.Order(images, config.train.batch_size, config.seed)


def make_stream(config: Config, sets: Sets, progress: Progress) -> data.Stream | None:
    """Returns the stream of a run; None if its data set is no stream.

    Raises:
      UserError: as `Ledger`.
    """
    if not sets.shards:
        return None
    captioned = config.mode.captioned

    def opened(shard: data.Shard, stop: threading.Event) -> data.Images:
        if shard == sets.shards[0]:  # already open
            return sets.train
        return data.open_shard(shard, config.data, captioned=captioned, stop=stop)

    ledger = Ledger(config.output, sets.shards, sets.shards[0].name, progress)
    size, seed = config.train.batch_size, config.seed
    return data.Stream(sets.shards, opened, ledger, batch_size=size, seed=seed)
