"""Batches from images and captions, encoded before the run or at each step."""

import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
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
from flax_sd.training.inputs.encoded import EncodedCaptions, EncodedImages
from flax_sd.training.inputs.encoding import Encoder
from flax_sd.training.inputs.encoding_cache import Store
from flax_sd.training.losses import EncodedBatch, PixelBatch, Trees
from flax_sd.training.setup.task import TrainTask
from flax_sd.weights.model import Model

MAX_SHARE_OF_DISK = 0.5  # of its free space, for the store


@runtime_checkable  # as the shape-checked tests need
class Inputs(Protocol):
    """Images, and a function that makes a batch on the devices from some of them."""

    @property
    def source(self) -> data.Source:
        """The images."""
        ...

    def batch(self, rows: data.Batch) -> Any:
        """Returns a batch of this process's rows, which `source` loaded."""
        ...


class EncodeOnTheFly:
    """Encodes images and captions at each step."""

    def __init__(
        self,
        images: data.Images,
        task: TrainTask,
        tokenizer: Tokenizer | None,
        frozen: Trees,
        mesh: Mesh,
    ):
        self.source, self._task, self._tokenizer = images, task, tokenizer
        self._frozen, self._mesh = frozen, mesh

    def batch(self, rows: data.Batch) -> EncodedBatch | PixelBatch:
        """Encodes pixels with the autoencoder, captions with the text encoder."""
        given = rows.images, tokenize(rows.captions, self._tokenizer), rows.weight
        pixels, ids, weight = sharding.shard_batch(given, self._mesh)
        batch = self._task.encode(self._frozen, pixels, ids)._replace(weight=weight)
        return masked(batch, rows.mask, self.source.cfg, self._mesh)


class FromCache:
    """Reads encoded images and captions; captions that are not cached are encoded at each step.

    A text encoder that is trained reads token ids instead.
    """

    def __init__(
        self,
        images: EncodedImages,
        captions: EncodedCaptions | None,
        tokenizer: Tokenizer | None,
        text: Callable[[jax.Array], jax.Array] | None,
        mesh: Mesh,
    ):
        """Takes the readers; `text` encodes token ids on the devices."""
        self.source, self._captions, self._text = images, captions, text
        self._tokenizer, self._mesh = tokenizer, mesh

    def batch(self, rows: data.Batch) -> EncodedBatch:
        """Returns the moments that were loaded, and the captions' states or ids."""
        if self._captions is None:
            text = tokenize(rows.captions, self._tokenizer)
        else:
            text = self._captions.states(rows.captions)
        given = rows.images, text, rows.weight
        moments, text, weight = sharding.shard_batch(given, self._mesh)
        if self._captions is None and self._text is not None:
            text = self._text(text)
        batch = EncodedBatch(moments, text, weight)
        return masked(batch, rows.mask, self.source.cfg, self._mesh)


def masked(batch: Any, mask: np.ndarray | None, cfg: DataConfig, mesh: Mesh) -> Any:
    """Returns the batch with a weight for each latent, if its pixels have masks."""
    if mask is None:
        return batch
    weights = data.place_weights(mask, batch.moments.mean.shape[1:3], cfg)
    return batch._replace(mask=sharding.shard_batch(weights, mesh))


def tokenize(captions: list[str], tokenizer: Tokenizer | None) -> np.ndarray:
    """Returns token ids [b, 77] or [b, k, 77]; zeros [b, 1] if the mode reads no captions."""
    return np.zeros((len(captions), 1), np.int32) if tokenizer is None else tokenizer(captions)


class Prepared(NamedTuple):
    """The inputs of a run, and its task without the networks that were needed only for encoding.

    Attributes:
      evaluated: inputs of the sets that are evaluated, by the name of their loss.
      frozen: the leaves that the steps read, on the mesh.
    """

    train: Inputs
    evaluated: dict[str, Inputs]
    task: TrainTask
    frozen: Trees


def prepare(
    config: Config,
    task: TrainTask,
    model: Model,
    sets: Sets,
    mesh: Mesh,
    progress: Progress,
) -> Prepared:
    """Encodes all images and captions, or prepares to do so at each step.

    Raises:
      UserError: an image is missing, or its encoding cannot be written.
    """
    opened = sets.all()
    encoder = _encoder(config, task, model, opened, progress)
    tokenizer = next(iter(model.tokenizers), None)  # some modes read no captions
    if encoder is None:
        frozen = sharding.shard_frozen(task.frozen, mesh)
        inputs: list[Inputs] = [EncodeOnTheFly(p, task, tokenizer, frozen, mesh) for p in opened]
    else:
        encoder.run(progress)
        task = task._replace(frozen=frozen_in_steps(task, config))
        frozen = sharding.shard_frozen(task.frozen, mesh)
        texts = encoder.captions
        text = None if task.text is None else functools.partial(task.text, frozen)
        inputs = [FromCache(p, texts, tokenizer, text, mesh) for p in encoder.images]
    evaluated = dict(zip(sets.evaluated, inputs[1:], strict=True))
    return Prepared(inputs[0], evaluated, task, frozen)


def frozen_in_steps(task: TrainTask, config: Config) -> dict[str, nnx.State]:
    """Returns the frozen leaves of the networks that are still needed when all is encoded."""
    reading = task.text is None or data.has_random_captions(config.data)
    done = {"vae"} if reading else {"vae", "text_encoder"}
    return {name: leaves for name, leaves in task.frozen.items() if name not in done}


def _encoder(
    config: Config,
    task: TrainTask,
    model: Model,
    sets: Sequence[data.Images],
    progress: Progress,
) -> Encoder | None:
    """Returns what encodes once; None if each step encodes: reports why, if not asked to."""
    if task.moments is None or not config.data.encode_once:
        return None
    if reason := _why_not_once(config, sets[0]):
        progress.stage("encodes at each step", reason)
        return None
    store = Store()
    encoder = Encoder(config, task, model, sets, store)
    needed = encoder.missing_bytes()
    if distributed.any_process(needed > MAX_SHARE_OF_DISK * store.room()):
        reason = f"{show_size(needed)} is more than half of the free space at {store.folder}"
        progress.stage("encodes at each step", reason)
        return None
    return encoder


def _why_not_once(config: Config, images: data.Images) -> str | None:
    """Returns why it does not pay to encode once, if it does not."""
    if images.cfg.stream:
        return "an encoded stream would fill the disk (data.stream)"
    count, random_crops = len(images), len(images.randomly_cropped)
    if random_crops:
        return (
            f"{random_crops} of {count} images are cropped at random each time "
            "(data.center_crop crops the middle, and encodes once)"
        )
    views = count * (2 if config.data.random_flip else 1)
    shown = config.train.steps * config.train.batch_size
    return f"{shown} images are shown, fewer than the data set has" if shown < views else None


class StepBatch(NamedTuple):
    """The batch of a step.

    Attributes:
      images: number of images in all processes, without padding.
      shape: height and width of the images.
    """

    batch: EncodedBatch | PixelBatch
    images: int
    shape: Size


def feed(
    config: Config,
    inputs: Inputs,
    mesh: Mesh,
    start_step: int = 0,
    stream: data.Stream | None = None,
) -> Generator[StepBatch, None, None]:
    """Yields encoded batches from `start_step` on, without end; that of step n depends on n alone.

    Args:
      stream: the images, if they do not come from the inputs' source.

    Raises:
      UserError: the batch does not divide over the devices, or an image is missing.
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
        yield StepBatch(batch, each.real, each.shape)
