"""torch's CPU noise without torch: the same seed gives the same image as in diffusers.

Reference: `aten/src/ATen/native/cpu/DistributionTemplates.h`, `core/DistributionsHelper.h`. 32-bit
Mersenne Twister and Box-Muller, with one method for 16 values or more and another for fewer.
"""

import math
import operator
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32

from flax_sd.errors import UserError

BLOCK = 16  # values that torch transforms together; fewer are drawn one by one


class TorchGenerator:
    """`torch.Generator("cpu").manual_seed(seed)`: draws continue one stream."""

    def __init__(self, seed: int):
        """Starts the stream; like torch, only the low 32 bits of the seed matter.

        Raises:
          UserError: the seed is not an integer of 64 bits.
        """
        try:
            fits = -(2**63) <= operator.index(seed) < 2**64
        except TypeError:
            fits = False
        if not fits:
            raise UserError(f"seed is {seed!r}: should be a whole number of at most 64 bits")
        self._bits = np.random.RandomState(seed & 0xFFFFFFFF)  # its stream is frozen by NumPy
        self._spare: float | None = None  # second value of the last pair that was drawn one by one

    def randn(self, shape: Sequence[int]) -> Float32[np.ndarray, "..."]:
        """Returns `torch.randn(shape, generator=…)` in float32, up to last bits of cos and log.

        Args:
          shape: the shape of the result.
        """
        size = math.prod(shape)
        values = self._blocks(size) if size >= BLOCK else self._singles(size)
        return values.astype(np.float32).reshape(shape)

    def _blocks(self, size: int) -> np.ndarray:
        """Draws pairs, eight apart in each block of 16; a last, partial block is drawn again."""
        uniform = self._uniform24(size)
        whole = size - size % BLOCK
        values = np.empty(size, np.float32)
        values[:whole] = _box_muller(uniform[:whole])
        if size > whole:
            values[-BLOCK:] = _box_muller(self._uniform24(BLOCK))
        return values

    def _raw(self, size: int) -> np.ndarray:
        return self._bits.randint(0, 2**32, size, dtype=np.uint32)

    def _uniform24(self, size: int) -> np.ndarray:
        return (self._raw(size) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)

    def _singles(self, size: int) -> np.ndarray:
        """Draws in float64; keeps each pair's sine for the next value, even of a later draw."""
        values = np.empty(size)
        for k in range(size):
            if self._spare is not None:
                values[k], self._spare = self._spare, None
                continue
            high, low = self._raw(4).astype(np.uint64).reshape(2, 2).T
            first, second = (((high << 32) | low) & (2**53 - 1)) * 2.0**-53
            radius, angle = math.sqrt(-2 * math.log1p(-second)), 2 * math.pi * first
            values[k], self._spare = radius * math.cos(angle), radius * math.sin(angle)
        return values


def initial_noise(seeds: Sequence[int], h: int, w: int, c: int) -> Float32[np.ndarray, "b h w c"]:
    """Returns what diffusers' `prepare_latents` draws for a list of generators, one for each seed.

    Each image's noise is drawn channels first and depends on its own seed alone.

    Args:
      seeds: one for each image.
      h: height of the latents.
      w: width of the latents.
      c: channels of the latents.
    """
    return np.stack([_image_noise(TorchGenerator(seed), h, w, c) for seed in seeds])


class StepNoise:
    """What the same generators draw after the initial noise, when a sampler's steps come to it."""

    def __init__(
        self,
        seeds: Sequence[int],
        draws: Bool[np.ndarray, " m"],
        h: int,
        w: int,
        c: int,
        *,
        after_initial: bool = True,
    ):
        """Begins the stream of each image.

        Args:
          seeds: one for each image.
          draws: the sampler's: the steps that draw.
          h: height of the latents.
          w: width of the latents.
          c: channels of the latents.
          after_initial: false where the initial latents were given instead of drawn.
        """
        self._draws, self._shape = draws, (h, w, c)
        self._generators = [TorchGenerator(seed) for seed in seeds]
        if after_initial:
            for generator in self._generators:
                generator.randn((1, c, h, w))

    def take(self, first: int, last: int) -> Float32[np.ndarray, "k b h w c"]:
        """Returns the noise of the steps from one up to another; 0 at those that draw none.

        Args:
          first: the first step: the streams go on, so that steps have to be taken in their order.
          last: the one after the last step.
        """
        noise = np.zeros((last - first, len(self._generators), *self._shape), np.float32)
        for i in np.flatnonzero(self._draws[first:last]):
            for k, generator in enumerate(self._generators):
                noise[i, k] = _image_noise(generator, *self._shape)
        return noise


def step_noise(
    seeds: Sequence[int],
    draws: Bool[np.ndarray, " m"],
    h: int,
    w: int,
    c: int,
    *,
    after_initial: bool = True,
) -> Float32[np.ndarray, "m b h w c"] | None:
    """Returns the noise of all steps, as `StepNoise` draws it; None if no step draws any.

    Args:
      seeds: one for each image.
      draws: the sampler's; at its other steps the result is 0.
      h: height of the latents.
      w: width of the latents.
      c: channels of the latents.
      after_initial: false where the initial latents were given instead of drawn.
    """
    draws = np.asarray(draws)
    if not draws.any():
        return None
    return StepNoise(seeds, draws, h, w, c, after_initial=after_initial).take(0, len(draws))


def _image_noise(generator: TorchGenerator, h: int, w: int, c: int) -> np.ndarray:
    return np.moveaxis(generator.randn((1, c, h, w))[0], 0, -1)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """Turns blocks of 16 uniform values into normal ones, rounded where torch rounds."""
    u, angle = np.split(uniform.reshape(-1, 2, BLOCK // 2), 2, axis=1)
    angle = (np.float32(2 * math.pi) * angle).astype(np.float64)
    radius = np.sqrt(-2 * np.log((1 - u).astype(np.float64)))
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()
