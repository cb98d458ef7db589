"""The endless stream of batches: a pure function of (seed, step)."""

import sys
from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import grain
import jax
import numpy as np
from jaxtyping import Float32, Int32, Int64, Num, PyTree

from flax_sd.config import DataConfig
from flax_sd.data.images.image_file import Size
from flax_sd.data.order import Order

# Pixels of one image or of many, or a tuple of what was made of them; ids of captions.
Arrays = PyTree[Num[np.ndarray, "..."]]


@runtime_checkable  # needed by the shape-checked tests
class Source(Protocol):
    """Captioned images by index, as pixels or encoded."""

    cfg: DataConfig
    shapes: tuple[Size, ...]
    repeats: tuple[int, ...]  # how often an epoch shows each
    weights: tuple[float, ...]  # of their losses

    def __len__(self) -> int: ...

    def captions(self, i: int) -> tuple[str, ...]:
        """Returns all captions of image i."""
        ...

    def caption(self, i: int, *, seed: int, sample: int) -> str:
        """Returns the caption that sample number `sample` draws for image i."""
        ...

    def load(self, i: int, *, seed: int, sample: int) -> Arrays:
        """Returns image i as sample number `sample` draws it."""
        ...

    def time_ids(self, i: int, *, seed: int, sample: int) -> Int32[np.ndarray, "6"]:
        """Returns the sizes and the crop of image i; see `PixelTransform.time_ids`."""
        ...

    def mask(self, i: int, *, seed: int, sample: int) -> Float32[np.ndarray, "h w"] | None:
        """Returns the mask of image i in [0, 1], cropped like the image; None without data.mask."""
        ...


class Batch(NamedTuple):
    """The rows of one step (this process's share), all images of one shape.

    Attributes:
      images: as the source loads them, stacked.
      indices: of the images.
      samples: their numbers in the stream.
      weight: of each in the loss (see `Order`); None where all weigh 1.
      real: how many rows of the whole step, in all processes, are no copies.
      shape: of the images.
      time_ids: the sizes and the crop of each, which SDXL is told.
      mask: of each in [0, 1], for each pixel; None without data.mask.
    """

    images: Arrays
    captions: list[str]
    indices: Int64[np.ndarray, " b"]
    samples: Int64[np.ndarray, " b"]
    weight: Float32[np.ndarray, " b"] | None
    real: int
    shape: Size
    time_ids: Int32[np.ndarray, "b 6"]
    mask: Float32[np.ndarray, "b h w"] | None = None


class _Steps:
    """Random access by step: loads this process's share of the step's batch."""

    def __init__(
        self, images: Source, seed: int, order: Order, share: Int64[np.ndarray, " r"] | slice
    ):
        self._images, self._seed = images, seed
        self._order, self._share = order, share

    def __len__(self) -> int:
        return sys.maxsize // 2**20  # numbers of samples stay integers of 64 bits

    def __getitem__(self, index: int) -> Batch:
        rows, seed, images = self._order.rows(index), self._seed, self._images
        samples = rows.samples[self._share]
        pairs = [(self._order.image(sample), sample) for sample in samples.tolist()]
        drawn = [images.mask(i, seed=seed, sample=sample) for i, sample in pairs]
        masks = [mask for mask in drawn if mask is not None]
        return Batch(
            stack([images.load(i, seed=seed, sample=sample) for i, sample in pairs]),
            [images.caption(i, seed=seed, sample=sample) for i, sample in pairs],
            np.array([i for i, _ in pairs], np.int64),
            samples,
            None if rows.weight is None else rows.weight[self._share],
            rows.real,
            images.shapes[pairs[0][0]],
            np.stack([images.time_ids(i, seed=seed, sample=sample) for i, sample in pairs]),
            np.stack(masks) if masks else None,
        )


def stack(rows: Sequence[Arrays]) -> Arrays:
    """Stacks the rows: each array gets a new first axis."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *rows)


def batches(
    images: Source,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    stop_step: int | None = None,
    stride: int | None = None,
    rows: Int64[np.ndarray, " r"] | None = None,
) -> Generator[Batch, None, None]:
    """Yields the batches from `start_step` on, decoded ahead by `data.workers` threads.

    Args:
      batch_size: images a step over all processes.
      stop_step: the first that is not wanted; there is no end if None.
      stride: of the numbers of samples from one epoch to the next (see `Order`).
      rows: those of each step that this process's devices hold (`sharding.process_rows`); all if
        None.

    Raises:
      UserError: later, from the iterator, an image that could be read at the start cannot be any
        more.
    """
    share = slice(None) if rows is None else rows
    order = Order(images, batch_size, seed, stride)
    steps = grain.MapDataset.source(_Steps(images, seed, order, share))
    return _read_ahead(steps[start_step:stop_step], images.cfg.workers)


def _read_ahead(steps: grain.MapDataset[Batch], workers: int) -> Generator[Batch, None, None]:
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
    iterator = iter(steps.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()  # ends the threads when the run does
