"""Batches from images and captions, encoded before the run or at each step."""

import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from flax import nnx
from jax.sharding import Mesh

from flax_sd import data
from flax_sd.config import Config, DataConfig
from flax_sd.data.images.image_file import Size
from flax_sd.errors import UserError
from flax_sd.models.clip import TextStates
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
TokenIds = tuple[Any, ...]  # ids of each text encoder


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
        tokenizers: Sequence[Tokenizer],
        frozen: Trees,
        mesh: Mesh,
    ):
        self.source, self._task, self._tokenizers = images, task, tokenizers
        self._frozen, self._mesh = frozen, mesh

    def batch(self, rows: data.Batch) -> EncodedBatch | PixelBatch:
        """Encodes pixels with the autoencoder, captions with the text encoders."""
        ids = tokenize(rows.captions, self._tokenizers)
        pixels, ids = sharding.shard_batch((rows.images, ids), self._mesh)
        batch = self._task.encode(self._frozen, pixels, ids)
        return completed(batch, rows, self.source.cfg, self._mesh)


class FromCache:
    """Reads encoded images and captions; captions that are not cached are encoded at each step.

    Text encoders of which one is trained read token ids instead.
    """

    def __init__(
        self,
        images: EncodedImages,
        captions: EncodedCaptions | None,
        tokenizers: Sequence[Tokenizer],
        text: Callable[[TokenIds], TextStates] | None,
        mesh: Mesh,
    ):
        """Takes the readers; `text` encodes token ids on the devices."""
        self.source, self._captions, self._text = images, captions, text
        self._tokenizers, self._mesh = tokenizers, mesh

    def batch(self, rows: data.Batch) -> EncodedBatch:
        """Returns the moments that were loaded, and the captions' states or ids."""
        if self._captions is None:
            text = tokenize(rows.captions, self._tokenizers)
        else:
            text = self._captions.states(rows.captions)
        moments, text = sharding.shard_batch((rows.images, text), self._mesh)
        if self._captions is None and self._text is not None:
            text = self._text(text)
        return completed(EncodedBatch(moments, text), rows, self.source.cfg, self._mesh)


def completed(batch: Any, rows: data.Batch, cfg: DataConfig, mesh: Mesh) -> Any:
    """Returns the batch with what is not encoded: weights, masks, what SDXL is told."""
    found: dict[str, Any] = {} if rows.weight is None else {"weight": rows.weight}
    if isinstance(batch, EncodedBatch):
        found["time_ids"] = rows.time_ids
    if rows.mask is not None:
        _, height, width, _ = batch.moments.mean.shape
        found["mask"] = data.place_weights(rows.mask, (height, width), cfg)
    return batch._replace(**sharding.shard_batch(found, mesh))


def tokenize(captions: list[str], tokenizers: Sequence[Tokenizer]) -> TokenIds:
    """Returns the token ids of each text encoder, [b, 77] or [b, k, 77]."""
    return tuple(tokenizer(captions) for tokenizer in tokenizers)


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
    tokenizers = list(model.tokenizers)  # none in modes that read no captions
    if encoder is None:
        frozen = sharding.shard_frozen(task.frozen, mesh)
        inputs: list[Inputs] = [EncodeOnTheFly(p, task, tokenizers, frozen, mesh) for p in opened]
    else:
        encoder.run(progress)
        task = task._replace(frozen=frozen_in_steps(task, config))
        frozen = sharding.shard_frozen(task.frozen, mesh)
        texts = encoder.captions
        text = None if task.text is None else functools.partial(task.text, frozen)
        inputs = [FromCache(p, texts, tokenizers, text, mesh) for p in encoder.images]
    evaluated = dict(zip(sets.evaluated, inputs[1:], strict=True))
    return Prepared(inputs[0], evaluated, task, frozen)


def frozen_in_steps(task: TrainTask, config: Config) -> dict[str, nnx.State]:
    """Returns the frozen leaves of the networks that are still needed when all is encoded."""
    reading = task.text is None or data.has_random_captions(config.data)
    done = {"vae"} if reading else task.frozen.keys() - {"unet"}
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


def check_batch(config: Config, mesh: Mesh) -> None:
    """Checks that each part of a batch divides over the devices.

    Raises:
      UserError: it does not.
    """
    train = config.train
    try:
        sharding.process_rows(train.batch_size // train.accumulate, mesh)
    except UserError as error:
        parts = f" in {train.accumulate} parts (train.accumulate)" if train.accumulate > 1 else ""
        raise UserError(f"train.batch_size {train.batch_size}{parts}: {error}") from error


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
