"""Runs a sampler's steps in a jitted program that all samplers share."""

from collections.abc import Callable

import jax
import numpy as np
from jax.typing import ArrayLike

from flax_sd.samplers import Carry, Sampler, StepNoise

Callback = Callable[[int, int, np.ndarray], object]  # (step from 1, number of steps, latents)

# (tables, carry, first step, step to stop before, noise from the first step on) → carry
Program = Callable[[Sampler, Carry, ArrayLike, ArrayLike, ArrayLike | None], Carry]

# Sizes of the tables: a sampler of fewer steps, and of less memory, has the same program as others.
STEPS = 128  # calls of the network; twice, four times … as many for more
MEMORY = 5  # values that are remembered; what PNDM needs, which needs the most
BLOCK = 8  # steps of one call of the program where there is noise, which is drawn meanwhile


def run(
    program: Program,
    sampler: Sampler,
    x: ArrayLike,
    noise: StepNoise | None = None,
    callback: Callback | None = None,
    span: tuple[int, int] | None = None,
) -> jax.Array:
    """Returns the x after all steps.

    The program is the same one with a callback, which is called between calls of it, and so are the
    images: a callback inside of it would make another program, which JAX does not keep on disk.

    Args:
      program: jitted, with both steps traced.
      sampler: the sampler.
      x: the first x.
      noise: of the steps; None if the sampler draws none.
      callback: called after each step, as `generate` describes.
      span: the first step and the one to stop before, if not all are made.
    """
    shared = _shared(sampler)
    carry, (first, last) = shared.init(x), span or (0, len(sampler.grid.timesteps))
    every = 1 if callback else max(1, last - first) if noise is None else BLOCK
    for i in range(first, last, every):
        end = min(i + every, last)
        carry = program(shared, carry, i, end, None if noise is None else _block(noise, i, end))
        if callback is not None:
            callback(end - first, last - first, np.asarray(carry.x))
    return carry.x


def _shared(sampler: Sampler) -> Sampler:
    """Returns the sampler in the sizes that others have."""
    steps = STEPS
    while steps < len(sampler.grid.timesteps):
        steps *= 2
    return sampler.padded(steps, MEMORY * max(1, -(-sampler.remembers // MEMORY)))


def _block(noise: StepNoise, first: int, last: int) -> np.ndarray:
    """Returns the noise of steps, with zeros up to the size that all calls have."""
    drawn = noise.take(first, last)
    return np.pad(drawn, [(0, BLOCK - len(drawn))] + [(0, 0)] * (drawn.ndim - 1))
