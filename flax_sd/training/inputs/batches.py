"""What a step reads, from pictures and captions: encoded before the run, or at each step."""

import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from flax_sd import data
from flax_sd.config import Config, DataConfig
from flax_sd.data.images.image_file import Size
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.system import distributed, sharding
from flax_sd.system.memory import show_size
from flax_sd.system.progress import Progress
from flax_sd.training.inputs.datasets import Sets
from flax_sd.training.inputs.encoded import EncodedCaptions, EncodedPictures
from flax_sd.training.inputs.encoding import Encoder
from flax_sd.training.inputs.encoding_cache import Store
from flax_sd.training.losses import EncodedBatch, Trees
from flax_sd.training.setup.task import Objective
from flax_sd.weights.model import Model

MAX_SHARE_OF_DISK = 0.5  # of its free space, which the store may take


@runtime_checkable  # as the shape-checked tests need
class Inputs(Protocol):
    """Pictures, and the way from some of them and their captions to a batch on the devices."""

    @property
    def source(self) -> data.Source:
        """The pictures."""
        ...

    def batch(self, rows: data.Batch) -> Any:
        """A batch of this process's rows, which `source` loaded."""
        ...


class Live:
    """Encodes at each step."""

    def __init__(
        self,
        pictures: data.Pictures,
        objective: Objective,
        tokenizer: Tokenizer | None,
        frozen: Trees,
        mesh: Mesh,
    ):
        self.source, self._objective, self._tokenizer = pictures, objective, tokenizer
        self._frozen, self._mesh = frozen, mesh

    def batch(self, rows: data.Batch) -> Any:
        """Pixels through the autoencoder, captions through the text encoder."""
        given = rows.pictures, tokenize(rows.captions, self._tokenizer), rows.weight
        pixels, ids, weight = sharding.shard_batch(given, self._mesh)
        batch = self._objective.encode(self._frozen, pixels, ids)._replace(weight=weight)
        return masked(batch, rows.mask, self.source.cfg, self._mesh)


class Stored:
    """Looks up what was encoded; without states of captions, these are encoded at each step.

    A text encoder that is trained reads token ids instead.
    """

    def __init__(
        self,
        pictures: EncodedPictures,
        captions: EncodedCaptions | None,
        tokenizer: Tokenizer | None,
        text: Callable[[Any], Any] | None,
        mesh: Mesh,
    ):
        """Takes the readers; `text` makes states of ids on the devices."""
        self.source, self._captions, self._text = pictures, captions, text
        self._tokenizer, self._mesh = tokenizer, mesh

    def batch(self, rows: data.Batch) -> EncodedBatch:
        """Moments as they were loaded, and the captions' states."""
        if self._captions is None:
            text = tokenize(rows.captions, self._tokenizer)
        else:
            text = self._captions.states(rows.captions)
        given = rows.pictures, text, rows.weight
        moments, text, weight = sharding.shard_batch(given, self._mesh)
        if self._captions is None and self._text is not None:
            text = self._text(text)
        batch = EncodedBatch(moments, text, weight)
        return masked(batch, rows.mask, self.source.cfg, self._mesh)


def masked(batch: Any, mask: np.ndarray | None, cfg: DataConfig, mesh: Mesh) -> Any:
    """The batch with the weights of the latents' places, if there are masks of its pixels."""
    if mask is None:
        return batch
    weights = data.place_weights(mask, batch.moments.mean.shape[1:3], cfg)
    return batch._replace(mask=sharding.shard_batch(weights, mesh))


def tokenize(captions: list[str], tokenizer: Tokenizer | None) -> np.ndarray:
    """Token ids [b, 77] or [b, k, 77]; a column of zeros where nothing reads captions."""
    return np.zeros((len(captions), 1), np.int32) if tokenizer is None else tokenizer(captions)


class Prepared(NamedTuple):
    """The inputs of a run, and its objective without what has done its work.

    Attributes:
      measured: of the pictures whose loss is measured, by its name.
      frozen: the leaves that the steps read, on the mesh.
    """

    train: Inputs
    measured: dict[str, Inputs]
    objective: Objective
    frozen: Trees


def prepare(
    config: Config,
    objective: Objective,
    model: Model,
    sets: Sets,
    mesh: Mesh,
    progress: Progress,
) -> Prepared:
    """Encodes all pictures and captions, or makes ready to do so at each step.

    Raises:
      UserError: a picture is gone, or what was made of it cannot be kept.
    """
    opened = sets.all()
    encoder = _encoder(config, objective, model, opened, progress)
    tokenizer = next(iter(model.tokenizers), None)  # some modes read no captions
    if encoder is None:
        frozen = sharding.shard_frozen(objective.frozen, mesh)
        inputs: list[Inputs] = [Live(p, objective, tokenizer, frozen, mesh) for p in opened]
    else:
        encoder.run(progress)
        objective = objective._replace(frozen=frozen_in_steps(objective, config))
        frozen = sharding.shard_frozen(objective.frozen, mesh)
        texts = encoder.captions
        text = None if objective.text is None else functools.partial(objective.text, frozen)
        inputs = [Stored(p, texts, tokenizer, text, mesh) for p in encoder.pictures]
    named = dict(zip(sets.measured, inputs[1:], strict=True))
    return Prepared(inputs[0], named, objective, frozen)


def frozen_in_steps(objective: Objective, config: Config) -> dict[str, nnx.State]:
    """The frozen leaves without those of networks that have nothing to do once all is encoded."""
    reading = objective.text is None or data.vary(config.data)
    done = {"vae"} if reading else {"vae", "text_encoder"}
    return {name: leaves for name, leaves in objective.frozen.items() if name not in done}


def _encoder(
    config: Config,
    objective: Objective,
    model: Model,
    sets: Sequence[data.Pictures],
    progress: Progress,
) -> Encoder | None:
    """What encodes once; None where each step does it, and then says why unless it was asked to."""
    if objective.moments is None or not config.data.encode_once:
        return None
    if reason := _each_time_anew(config, sets[0]):
        progress.stage("encodes at each step", reason)
        return None
    store = Store()
    encoder = Encoder(config, objective, model, sets, store)
    needed = encoder.missing_bytes()
    if distributed.any_process(needed > MAX_SHARE_OF_DISK * store.room()):
        reason = f"{show_size(needed)} would be more than half of what is free at {store.folder}"
        progress.stage("encodes at each step", reason)
        return None
    return encoder


def _each_time_anew(config: Config, pictures: data.Pictures) -> str | None:
    """Why pictures that are encoded once would be of no use, or too little of it."""
    if pictures.cfg.stream:
        return "what is made of a stream would fill a disk (data.stream)"
    count, cut_anew = len(pictures), len(pictures.cut_anew)
    if cut_anew:
        return (
            f"{cut_anew} of {count} pictures are cut at a place drawn anew each time "
            "(data.center_crop cuts the middle, and encodes once)"
        )
    views = count * (2 if config.data.random_flip else 1)
    shown = config.train.steps * config.train.batch_size
    return f"{shown} pictures are shown, fewer than there are" if shown < views else None


class Fed(NamedTuple):
    """What one step reads.

    Attributes:
      pictures: how many it shows, in all processes; what fills a batch up does not count.
      shape: of the pictures.
    """

    batch: Any
    pictures: int
    shape: Size


def feed(
    config: Config,
    inputs: Inputs,
    mesh: Mesh,
    start_step: int = 0,
    stream: data.Stream | None = None,
) -> Generator[Fed, None, None]:
    """The encoded batches from `start_step` on, for ever; those of step n depend on n alone.

    Args:
      stream: where the pictures come from, if not from the inputs' source.

    Raises:
      UserError: the batch does not divide over the devices, or a picture is gone.
    """
    size, seed, dropout = config.train.batch_size, config.seed, config.train.caption_dropout
    rows = sharding.process_rows(size, mesh)
    if stream is not None:
        batches = stream.batches(start_step, rows=rows)
    else:
        batches = data.batches(inputs.source, size, seed=seed, start_step=start_step, rows=rows)
    for each in batches:
        captions = data.drop_captions(each.captions, each.samples, seed=seed, share=dropout)
        batch = inputs.batch(each._replace(captions=captions))
        yield Fed(batch, each.real, each.shape)
