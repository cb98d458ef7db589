"""Which samples a step shows: a pure function of (seed, step), so that a run resumes by its step.

Sample number n belongs to epoch n // N of the N images, of which some may be listed several
times, and each epoch is a permutation of its own. Where all images have one shape, step s takes
samples s·B … s·B + B - 1, over the end of an epoch too. Of several shapes a batch holds one: the
samples of an epoch are divided by shape, in their order, into batches, and these are permuted. The
last batch of a shape is filled up with copies that weigh nothing, so no image is left out and
each shape is one program.
"""

import functools
import math
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from flax_sd.data.buckets import group_indices
from flax_sd.data.images.image_file import Size

# The counters keep clear of the numbers that images.draw and captions draw from such keys.
PICTURES, BATCHES, SHARDS = (0, 0, 0, 1), (0, 1, 0, 0), (0, 0, 1, 1)


class Rows(NamedTuple):
    """The samples of one step.

    Attributes:
      weight: of each row in the loss: its image's, times B over the number of real rows; 0 is a
        copy that fills the batch up. None where all weigh 1.
      real: how many are no copies.
    """

    samples: Int64[np.ndarray, " b"]
    weight: Float32[np.ndarray, " b"] | None
    real: int


@runtime_checkable  # needed by the shape-checked tests
class Shown(Protocol):
    """The facts about the images, by index, that the order depends on."""

    shapes: tuple[Size, ...]
    repeats: tuple[int, ...]  # how often an epoch shows each
    weights: tuple[float, ...]  # of their losses


class Order:
    """The rows of every step.

    Args:
      batch_size: rows of a step, over all processes.
      stride: from the number of an epoch's first sample to that of the next one's; no step then
        goes over the end of an epoch. None is the number of images.
    """

    def __init__(self, images: Shown, batch_size: int, seed: int, stride: int | None = None):
        self._batch_size, self._seed = batch_size, seed
        self._listed = np.repeat(np.arange(len(images.repeats)), images.repeats)
        self._stride = stride or len(self._listed)
        self._shapes = [images.shapes[i] for i in self._listed]
        weights = np.array(images.weights, np.float32)
        self._weights = None if (weights == 1).all() else weights
        sizes = [len(places) for places in group_indices(self._shapes)]
        self._one_shape = len(sizes) == 1 and stride is None
        self._batches = sum(-(-size // batch_size) for size in sizes)
        self._epoch = functools.lru_cache(maxsize=4)(self._divided)  # threads run a little ahead

    def steps(self, epochs: int) -> int:
        """Returns the number of steps in `epochs` epochs."""
        if self._one_shape:
            return math.ceil(epochs * len(self._shapes) / self._batch_size)
        return math.ceil(epochs * self._batches)

    def epochs(self, steps: int) -> int:
        """Returns the number of epochs finished after `steps` steps."""
        if self._one_shape:
            return steps * self._batch_size // len(self._shapes)
        return steps // self._batches

    def rows(self, step: int) -> Rows:
        """Returns the samples of a step."""
        if self._one_shape:
            first = step * self._batch_size
            return self._weighed(np.arange(first, first + self._batch_size), None, self._batch_size)
        epoch, place = divmod(step, self._batches)
        return self._epoch(epoch)[place]

    def image(self, sample: int) -> int:
        """Returns the index of the image that a sample shows."""
        return int(self._listed[image_of(sample, len(self._listed), self._seed, self._stride)])

    def shown(self, step: int) -> list[int]:
        """Returns the images of a step, counted from 0, each once."""
        return list(dict.fromkeys(map(self.image, self.rows(step).samples.tolist())))

    def _divided(self, epoch: int) -> list[Rows]:
        """Divides an epoch with several shapes into batches."""
        count, size = len(self._shapes), self._batch_size
        order = permutation(count, self._seed, epoch)
        chunks = [
            np.array(places[start : start + size]) + epoch * self._stride
            for places in group_indices([self._shapes[i] for i in order])
            for start in range(0, len(places), size)
        ]
        bits = np.random.Philox(key=[self._seed, epoch], counter=BATCHES).random_raw(len(chunks))
        return [self._filled(chunks[i], int(bits[i] % size)) for i in np.argsort(bits)]

    def _filled(self, samples: np.ndarray, shift: int) -> Rows:
        """Fills up a batch by repeating its rows, then rotates it by `shift`.

        Unmoved, the rows of stratified timesteps that copies waste would always be the latest.
        """
        size, real = self._batch_size, len(samples)
        weight = np.where(np.arange(size) < real, size / real, 0).astype(np.float32)
        return self._weighed(np.roll(np.resize(samples, size), shift), np.roll(weight, shift), real)

    def _weighed(self, samples: np.ndarray, weight: np.ndarray | None, real: int) -> Rows:
        """Adds the weights of the images to the rows."""
        if self._weights is not None:
            own = self._weights[[self.image(sample) for sample in samples.tolist()]]
            weight = own if weight is None else weight * own
        return Rows(samples, weight, real)


@functools.lru_cache(maxsize=8)  # a step reads one epoch, or two; threads run a few steps ahead
def permutation(
    count: int, seed: int, epoch: int, counter: tuple[int, ...] = PICTURES
) -> Int64[np.ndarray, " count"]:
    """Returns the order of `count` images, or shards, in one epoch.

    Sorts raw Philox numbers, which are alike in every NumPy; grain's own shuffle promises no such
    thing, and takes milliseconds an image for the few images that a LoRA often has.
    """
    bits = np.random.Philox(key=[seed, epoch], counter=counter).random_raw(count)
    return np.argsort(bits, kind="stable")


def image_of(sample: int, count: int, seed: int, stride: int | None = None) -> int:
    """Returns which of `count` images sample number `sample` of the stream shows.

    Args:
      stride: of the numbers from one epoch to the next; `count` if None.
    """
    epoch, place = divmod(sample, stride or count)
    return int(permutation(count, seed, epoch)[place])
