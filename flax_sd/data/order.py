"""Which samples a step shows: a pure function of (seed, step), so that a run resumes by its step.

Sample number n belongs to epoch n // N of the N pictures, and each epoch is a permutation of its
own. Where all pictures have one shape, step s takes samples s·B … s·B + B - 1, over the end of an
epoch too. Of several shapes a batch holds one: the samples of an epoch are divided by shape, in
their order, into batches, and these are permuted. The last batch of a shape is filled up with
copies that weigh nothing, so each picture is shown once an epoch and each shape is one program.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from flax_sd.data.buckets import alike
from flax_sd.data.images import Size

# The counters keep clear of the numbers that images.draw and captions.drawn take from such keys.
PICTURES, BATCHES = [0, 0, 0, 1], [0, 1, 0, 0]


class Rows(NamedTuple):
    """The samples of one step.

    Attributes:
      weight: of each row in the loss, of mean 1; 0 is a copy that fills the batch up. None where
        all weigh 1.
    """

    samples: Int64[np.ndarray, " b"]
    weight: Float32[np.ndarray, " b"] | None

    @property
    def real(self) -> int:
        """How many are no copies."""
        return len(self.samples) if self.weight is None else int(np.count_nonzero(self.weight))


class Order:
    """The rows of every step.

    Args:
      shapes: of all pictures.
      batch_size: rows of a step, over all processes.
    """

    def __init__(self, shapes: Sequence[Size], batch_size: int, seed: int):
        self._shapes, self._batch_size, self._seed = shapes, batch_size, seed
        sizes = [len(places) for places in alike(shapes)]
        self._one_shape = len(sizes) == 1
        self._batches = sum(-(-size // batch_size) for size in sizes)
        self._epoch = functools.lru_cache(maxsize=4)(self._divided)  # threads run a little ahead

    def steps(self, epochs: int) -> int:
        """How many steps show every picture so often."""
        if self._one_shape:
            return math.ceil(epochs * len(self._shapes) / self._batch_size)
        return math.ceil(epochs * self._batches)

    def rows(self, step: int) -> Rows:
        """The samples of a step."""
        if self._one_shape:
            first = step * self._batch_size
            return Rows(np.arange(first, first + self._batch_size), None)
        epoch, place = divmod(step, self._batches)
        return self._epoch(epoch)[place]

    def picture(self, sample: int) -> int:
        """The picture that a sample shows."""
        return picture_of(sample, len(self._shapes), self._seed)

    def shown(self, step: int) -> list[int]:
        """The pictures of a step, counted from 0, each once."""
        return list(dict.fromkeys(map(self.picture, self.rows(step).samples.tolist())))

    def _divided(self, epoch: int) -> list[Rows]:
        """The batches of an epoch of several shapes."""
        count, size = len(self._shapes), self._batch_size
        order = permutation(count, self._seed, epoch)
        chunks = [
            np.array(places[start : start + size]) + epoch * count
            for places in alike([self._shapes[i] for i in order])
            for start in range(0, len(places), size)
        ]
        bits = np.random.Philox(key=[self._seed, epoch], counter=BATCHES).random_raw(len(chunks))
        return [self._filled(chunks[i], int(bits[i] % size)) for i in np.argsort(bits)]

    def _filled(self, samples: np.ndarray, shift: int) -> Rows:
        """A whole batch, its rows moved on in a ring.

        Unmoved, the rows of stratified timesteps that copies waste would always be the latest.
        """
        size, real = self._batch_size, len(samples)
        weight = np.where(np.arange(size) < real, size / real, 0).astype(np.float32)
        return Rows(np.roll(np.resize(samples, size), shift), np.roll(weight, shift))


@functools.lru_cache(maxsize=8)  # a step reads one epoch, or two; threads run a few steps ahead
def permutation(count: int, seed: int, epoch: int) -> Int64[np.ndarray, " count"]:
    """Returns the order of `count` pictures in one epoch.

    Sorts raw Philox numbers, which are alike in every NumPy; grain's own shuffle promises no such
    thing, and takes milliseconds a picture for the few pictures that a LoRA often has.
    """
    bits = np.random.Philox(key=[seed, epoch], counter=PICTURES).random_raw(count)
    return np.argsort(bits, kind="stable")


def picture_of(sample: int, count: int, seed: int) -> int:
    """Returns the picture, of `count`, that sample number `sample` of the stream shows."""
    epoch, place = divmod(sample, count)
    return int(permutation(count, seed, epoch)[place])
