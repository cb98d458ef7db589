"""Runs a sampler's steps, and tells the caller of `generate` after each one."""

from collections.abc import Callable

import jax
import numpy as np
from jax.typing import ArrayLike

from flax_sd.samplers import Carry, Sampler

Callback = Callable[[int, int, np.ndarray], object]  # (step from 1, number of steps, latents)


def run(
    program: Callable[[Carry, ArrayLike, ArrayLike], Carry],
    sampler: Sampler,
    x: ArrayLike,
    callback: Callback | None,
    span: tuple[int, int] | None = None,
) -> jax.Array:
    """Returns the x after all steps: of one call of the program, or of one call for each step.

    The program is the same one with a callback, and so are the images: a callback inside of it
    would make another program, which JAX does not keep on disk.

    Args:
      program: (carry, first step, step to stop before) → carry; jitted, both steps traced.
      span: the first step and the one to stop before, if not all are made.
    """
    carry, (first, last) = sampler.init(x), span or (0, len(sampler.grid.timesteps))
    if callback is None:
        return program(carry, first, last).x
    for i in range(first, last):
        carry = program(carry, i, i + 1)
        callback(i + 1 - first, last - first, np.asarray(carry.x))
    return carry.x
