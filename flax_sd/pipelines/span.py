"""Which of a sampler's steps are made, where several models divide an image's noise.

SDXL's base model makes the first steps and its refiner the last (Podell et al. 2023, §2.5); the
fractions are those of diffusers' SDXL pipelines, of the training timesteps.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from flax_sd.errors import UserError
from flax_sd.pipelines.options import Options
from flax_sd.samplers import Sampler

START, END = "denoising_start", "denoising_end"


class Span(NamedTuple):
    """The first step, and the one after the last; `given` latents are at the level of the first."""

    first: int
    last: int
    given: bool = False


def read_span(
    options: Options, sampler: Sampler, scheduler: Mapping[str, object], *, latents: bool
) -> Span:
    """Returns the steps that the options leave.

    Args:
      scheduler: the sampler's config.
      latents: whether latents are given.

    Raises:
      UserError: an option is no fraction, the end is not after the start, there are no latents to
        start from, or the sampler cannot start in between; all problems are named.
    """
    start, end = options.get(START), options.get(END)
    problems = [
        f"{name} is {value!r}: should be a fraction between 0 and 1, such as 0.8"
        for name, value in ((START, start), (END, end))
        if value is not None and not _is_fraction(value)
    ]
    if start is not None and end is not None and not problems and start >= end:
        problems.append(f"{START} is {start} and {END} {end}: the start should be the smaller one")
    if start is not None and not latents:
        problems.append(f"{START} needs latents, which a model with {END} returned as latents")
    if start is not None and sampler.remembers and sampler.order == 1:
        problems.append(
            f"{START}: {scheduler.get('_class_name')} reads its earlier steps and has to make the "
            "first; take another sampler, such as ddim or euler"
        )
    if problems:
        raise UserError("; ".join(problems))
    total = scheduler.get("num_train_timesteps")
    timesteps = np.asarray(sampler.timesteps)
    cutoffs = [
        None if at is None else cutoff(at, total if isinstance(total, int) else 1000)
        for at in (start, end)
    ]
    return Span(*steps_within(timesteps, *cutoffs, order=sampler.order), given=start is not None)


def cutoff(fraction: float, train_timesteps: int) -> int:
    """Returns the timestep at which that fraction of the noise is gone."""
    return round(train_timesteps - fraction * train_timesteps)


def steps_within(
    timesteps: np.ndarray, below: int | None, least: int | None, *, order: int = 1
) -> tuple[int, int]:
    """Returns the first step, and the one after the last, between two timesteps.

    Args:
      timesteps: [m], of each call of the network, from noisy to clean.
      below: the first step is below it; None for the first of all.
      least: the last one is not below it; None for the last of all.
      order: calls of the network in one step, but for the last step: one is not begun in its
        middle.
    """
    first = 0
    if below is not None:
        count = int((timesteps < below).sum())
        first = max(0, len(timesteps) - count - (order == 2 and count % 2 == 0))
    if least is None:
        return first, len(timesteps)
    return first, first + int((timesteps[first:] >= least).sum())


def _is_fraction(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and 0 < value < 1
