"""The sets of captioned pictures of a run: those it trains on, and those it measures a loss on."""

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
ENOUGH = 10  # pictures; with five, docs/walk.md cannot tell a gain of 5 % from none


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


def open_sets(config: Config) -> Sets:
    """Opens every picture once; measured pictures are cut alike in every run.

    Raises:
      UserError: they cannot be read, or cannot be divided.
    """
    captioned, share = config.mode.captioned, config.data.held_out_share
    shards = ()
    if config.data.stream:
        shards, unused = data.find_all(config.data.path)
        train = _first(config, shards)
        train.unused.extend(unused)
    else:
        train = data.open_pictures(config.data, captioned=captioned)
    measured = {
        name: data.open_pictures(cfg, captioned=captioned, option=NAMED_BY[name])
        for name, cfg in _measured(config.data).items()
    }
    if share is not None:
        train, own = data.split(train, share, config.data.for_measuring())
        measured = {VAL_LOSS: own, **measured}
    if config.validation.every and VAL_LOSS in measured:
        measured[TRAIN_SUBSET] = _subset(train, len(measured[VAL_LOSS]))
    return Sets(train, measured, shards)


def few_measured(sets: Sets) -> list[str]:
    """Returns a sentence for each set that has too few pictures to show a small change."""
    return [
        f"{name} will be of {len(pictures)} picture{'s' * (len(pictures) > 1)}: with fewer than "
        f"{ENOUGH} only a large change of the loss can be told from chance"
        for name, pictures in sets.measured.items()
        if name in (VAL_LOSS, BASE_LOSS) and len(pictures) < ENOUGH
    ]


def _measured(cfg: DataConfig) -> dict[str, DataConfig]:
    """Returns the options of the sets that lie elsewhere, by the name of their loss."""
    found = {}
    if cfg.held_out is not None:
        found[VAL_LOSS] = cfg.for_measuring(cfg.held_out)
    if cfg.held_out_base is not None:
        # A trigger word in these captions would make learning the style look like forgetting.
        plain = cfg.for_measuring(cfg.held_out_base)
        found[BASE_LOSS] = plain.model_copy(update={"template": "{}"})
    return found


def _first(config: Config, shards: tuple[data.Shard, ...]) -> data.Pictures:
    """The pictures of the first shard, of which at least one must be good."""
    pictures = data.open_shard(shards[0], config.data, captioned=config.mode.captioned)
    if not len(pictures):
        lines = [f"{name}: {reason}" for name, reason in pictures.bad] or ["it holds none"]
        head = f"no picture of {shards[0].name}, the first of {len(shards)} shards, can be used:"
        raise UserError(listed(head, lines))
    return pictures


def _subset(pictures: data.Pictures, count: int) -> data.Pictures:
    """So many of the run's own pictures that it shows, or all, chosen by their names alone."""
    pairs = zip(pictures.repeats, pictures.prior, strict=True)
    own = [i for i, (repeats, prior) in enumerate(pairs) if repeats and not prior]
    digests = [hashlib.sha256(name.encode()).digest() for name in pictures.names]
    chosen = sorted(own, key=lambda i: (digests[i], i))[:count]
    return pictures.subset(sorted(chosen), pictures.cfg.for_measuring())


def total_steps(config: Config, pictures: data.Pictures) -> int:
    """The smaller of train.steps and the steps of train.epochs."""
    train = config.train
    if train.epochs is None:
        return train.steps
    return min(train.steps, order_of(config, pictures).steps(train.epochs))


def describe(config: Config, pictures: data.Pictures) -> str:
    """The steps in words, and which option ends the run where there are two that may."""
    total, train = total_steps(config, pictures), config.train
    words = f"{total} steps"
    if config.data.stream:
        return words
    order = order_of(config, pictures)
    epoch = order.steps(1000) / 1000  # no whole number where batches go on into the next one
    words += f" of {train.batch_size}, {total / epoch:.3g} epochs"
    if train.epochs is None:
        return words
    if total == train.steps < order.steps(train.epochs):
        return f"{words}: train.steps ends the run before its {train.epochs} epochs (train.epochs)"
    return f"{words}: train.epochs ends the run"


def order_of(config: Config, pictures: data.Pictures) -> data.Order:
    """The order in which the run shows them."""
    return data.Order(pictures, config.train.batch_size, config.seed)


def make_stream(config: Config, sets: Sets, progress: Progress) -> data.Stream | None:
    """The stream of a run; None where its set is no stream.

    Raises:
      UserError: as `Ledger`.
    """
    if not sets.shards:
        return None
    captioned = config.mode.captioned

    def opened(shard: data.Shard, stop: threading.Event) -> data.Pictures:
        if shard == sets.shards[0]:  # which is open already
            return sets.train
        return data.open_shard(shard, config.data, captioned=captioned, stop=stop)

    ledger = Ledger(config.output, sets.shards, sets.shards[0].name, progress)
    size, seed = config.train.batch_size, config.seed
    return data.Stream(sets.shards, opened, ledger, batch_size=size, seed=seed)
