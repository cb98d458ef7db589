"""The endless stream of batches: what step s sees is a function of (seed, s) alone.

Sample number n belongs to epoch n // N of the N pictures, and each epoch is a permutation of its
own; step s takes samples s·B … s·B + B - 1, over the end of an epoch too, so that no picture is
left out. A run that resumes therefore needs nothing but its step.
"""

import functools
import sys
from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Float32, Int64

from flax_sd.config import DataConfig
from flax_sd.errors import UserError


@runtime_checkable  # as the shape-checked tests need
class Source(Protocol):
    """Captioned pictures by index, as pixels or as what was made of them."""

    cfg: DataConfig

    def __len__(self) -> int: ...

    def captions(self, i: int) -> tuple[str, ...]:
        """All captions of picture i."""
        ...

    def caption(self, i: int, *, seed: int, sample: int) -> str:
        """The caption that sample number `sample` draws for picture i."""
        ...

    def load(self, i: int, *, seed: int, sample: int) -> Float32[np.ndarray, "..."]:
        """Picture i as sample number `sample` draws it."""
        ...


class Batch(NamedTuple):
    """The pictures of one step (this process's share), their captions and their indices."""

    pictures: Float32[np.ndarray, "b ..."]
    captions: list[str]
    indices: Int64[np.ndarray, " b"]


@functools.lru_cache(maxsize=8)  # a step reads one epoch, or two; threads run a few steps ahead
def permutation(count: int, seed: int, epoch: int) -> Int64[np.ndarray, " count"]:
    """Returns the order of `count` pictures in one epoch.

    Sorts raw Philox numbers, which are alike in every NumPy; grain's own shuffle promises no such
    thing, and takes milliseconds a picture for the few pictures that a LoRA often has.
    """
    # The counter keeps clear of the numbers that images.draw takes from the same key.
    bits = np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, 1]).random_raw(count)
    return np.argsort(bits, kind="stable")


def picture_of(sample: int, count: int, seed: int) -> int:
    """Returns the picture, of `count`, that sample number `sample` of the stream shows."""
    epoch, place = divmod(sample, count)
    return int(permutation(count, seed, epoch)[place])


def shown(step: int, batch_size: int, count: int, seed: int) -> list[int]:
    """Returns the pictures, of `count`, of step number `step`, counted from 0, each once."""
    samples = range(step * batch_size, (step + 1) * batch_size)
    return list(dict.fromkeys(picture_of(sample, count, seed) for sample in samples))


class _Steps:
    """Random access by step: loads this process's share of the step's batch."""

    def __init__(self, pictures: Source, seed: int, batch_size: int, share: range):
        self._pictures, self._seed = pictures, seed
        self._batch_size, self._share = batch_size, share

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def __getitem__(self, index: int) -> Batch:
        samples = [index * self._batch_size + row for row in self._share]
        pictures, seed = self._pictures, self._seed
        pairs = [(picture_of(sample, len(pictures), seed), sample) for sample in samples]
        return Batch(
            np.stack([pictures.load(i, seed=seed, sample=sample) for i, sample in pairs]),
            [pictures.caption(i, seed=seed, sample=sample) for i, sample in pairs],
            np.array([i for i, _ in pairs], np.int64),
        )


def batches(
    pictures: Source,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Returns the batches from `start_step` on, decoded ahead by `data.workers` threads.

    Args:
      batch_size: pictures a step over all processes; process p gets the p-th contiguous share.

    Raises:
      UserError: the processes cannot share the batch evenly; later, from the iterator, a picture
        that could be read at the start cannot be any more.
    """
    if batch_size % process_count:
        raise UserError(
            f"train.batch_size {batch_size} cannot be divided among {process_count} processes: "
            f"{max(1, batch_size // process_count) * process_count} can"
        )
    local = batch_size // process_count
    share = range(process_index * local, (process_index + 1) * local)
    steps = grain.MapDataset.source(_Steps(pictures, seed, batch_size, share))
    return _read_ahead(steps[start_step:], pictures.cfg.workers)


def _read_ahead(steps: grain.MapDataset[Batch], workers: int) -> Iterator[Batch]:
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
    iterator = iter(steps.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()  # ends the threads when the run does
