"""Checks the arguments of `generate`, and spells them out for each image."""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, SupportsFloat

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from flax_sd.errors import UserError
from flax_sd.pipelines.span import Span
from flax_sd.samplers import Sampler, StepNoise, initial_noise


class Request(NamedTuple):
    """The images to generate, b of them."""

    prompts: list[str]
    negatives: list[str]
    seeds: list[int]
    height: int  # latents
    width: int  # latents


def read_request(
    prompt_or_list: object,
    negative_prompt: object,
    seed: object,
    size: tuple[int | None, int | None],  # pixels
    latents: ArrayLike | None,
    *,
    default_size: tuple[int, int],  # latents
    channels: int,
    stride: int,  # pixels per latent
) -> Request:
    """Returns the checked arguments of `generate`; None as negative prompt becomes an empty one.

    Raises:
      UserError: a prompt that is not text, lists of different lengths, a size that the VAE cannot
        make, latents of another shape, a seed that is not an integer; all problems are named.
    """
    problems: list[str] = []
    prompts = read_texts("prompt", prompt_or_list, problems)
    count, negative = len(prompts), "" if negative_prompt is None else negative_prompt
    negatives = read_texts("negative prompt", negative, problems)
    if isinstance(negative, str):
        negatives *= count
    if not prompts and not problems:
        problems.append("there is no prompt")
    if len(negatives) != count and not problems:
        problems.append(f"{len(negatives)} negative prompts for {count} prompts; give one or each")
    seeds = read_seeds(seed, count, problems, "prompts")
    given = None if latents is None else np.shape(latents)
    default = given[1:3] if given and len(given) == 4 else default_size
    sides = []
    for name, side, usual in zip(("height", "width"), size, default, strict=True):
        if side is not None and (side < stride or side % stride):
            problems.append(f"{name} is {side}: should be a positive multiple of {stride}")
        sides.append(usual if side is None else side // stride)
    wanted = (count, *sides, channels)
    if given is not None and given != wanted and not problems:
        problems.append(f"latents are {list(given)}: should be {list(wanted)} [b, h, w, c]")
    if problems:
        raise UserError("; ".join(problems))
    return Request(prompts, negatives, seeds, *sides)


def read_texts(noun: str, given: object, problems: list[str]) -> list:
    """Returns one text or several as a list; adds what is wrong to `problems`."""
    texts = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        problems.append(f"{noun} is {wrong[0]!r}: should be text, or a list of texts")
    return texts


def spread(name: str, given: object, prompts: Sequence[str]) -> list[str]:
    """Returns a text for each prompt: those given, one for all of them, or the prompts.

    An empty one stands for the prompts, as in diffusers.

    Raises:
      UserError: it is not text, or not as many as there are prompts.
    """
    if given is None or given == "":
        return list(prompts)
    problems: list[str] = []
    texts = read_texts(name, given, problems)
    if isinstance(given, str):
        texts *= len(prompts)
    if len(texts) != len(prompts) and not problems:
        problems.append(
            f"{len(texts)} texts as {name} for {len(prompts)} prompts; give one or each"
        )
    if problems:
        raise UserError("; ".join(problems))
    return texts


def read_seeds(seed: Any, count: int, problems: list[str], noun: str = "images") -> list[int]:
    """Returns a seed for each image, counting up from a single one; adds errors to `problems`."""
    try:
        if isinstance(seed, Sequence | np.ndarray):
            seeds = [operator.index(one) for one in seed]
        else:
            seeds = [operator.index(seed) + k for k in range(count)]
    except TypeError:
        problems.append(f"seed is {seed!r}: should be an integer or a list of integers")
        return []
    if len(seeds) != count:
        problems.append(f"{len(seeds)} seeds for {count} {noun}; give one or each")
    return seeds


def draw_noise(
    request: Request, sampler: Sampler, channels: int, latents: ArrayLike | None, span: Span
) -> tuple[Float[np.ndarray, "b h w c"], StepNoise | None]:
    """Returns the first x and the noise of the steps, as diffusers draws them from these seeds.

    Given latents take no noise from the stream, which then begins with the noise of the steps; they
    are noise, but for those that are at the level of the first step of a span. The noise is None
    for a sampler that draws none.
    """
    shape, made = (request.height, request.width, channels), np.arange(len(sampler.grid.draws))
    draws = sampler.grid.draws & (made >= span.first) & (made < span.last)
    drawn = StepNoise(request.seeds, draws, *shape, after_initial=latents is None)
    first = initial_noise(request.seeds, *shape) if latents is None else latents
    x = np.asarray(first, np.float32)
    x = x if span.given else x * np.asarray(sampler.init_noise_sigma)
    return x, drawn if sampler.stochastic else None


def guided(guidance_scale: SupportsFloat) -> bool:
    """Returns whether the unconditional half is needed.

    Raises:
      UserError: the scale is not a number.
    """
    if not math.isfinite(float(guidance_scale)):
        raise UserError(f"guidance_scale is {guidance_scale}: should be a number; 1 turns it off")
    return float(guidance_scale) > 1
