"""The text states of prompts, for both halves of guidance."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flax_sd.models.clip import TextStates
from flax_sd.pipelines.options import Options
from flax_sd.pipelines.request import Request, spread

# (prompts for each text encoder, last layers to leave out, tokens to read) -> their states
Encode = Callable[[Sequence[list[str]], int, int], TextStates]


class PromptStates(NamedTuple):
    """The text states of prompts.

    Attributes:
      text: [b, 77, d] float32; 152 or 227 tokens for a `max_token_length` of 150 or 225. In SDXL
        d is the width of both text encoders.
      pooled: [b, d]; only for SDXL.
    """

    text: np.ndarray
    pooled: np.ndarray | None = None


def encode_halves(
    encode: Encode, request: Request, options: Options, *, guided: bool, zeros: bool
) -> TextStates:
    """Returns states [b, 2, …], of negative prompts before prompts; [b, 1, …] without guidance.

    Args:
      zeros: those of negative prompts are zeros.
    """
    length = options.get("max_token_length") or 75
    second = spread("prompt_2", options.get("prompt_2"), request.prompts)
    halves = [encode([request.prompts, second], options.get("clip_skip") or 0, length)]
    if guided:
        second = spread("negative_prompt_2", options.get("negative_prompt_2"), request.negatives)
        negative = encode([request.negatives, second], 0, length)
        halves.insert(0, jax.tree.map(jnp.zeros_like, negative) if zeros else negative)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *halves)
