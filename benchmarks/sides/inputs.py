"""What both sides are given."""

from collections.abc import Callable

import numpy as np

Run = Callable[[], np.ndarray]  # does the work once; returns what came out

TOKENS, LORA_RANK = 77, 4
PROMPT, STEPS = "a photograph of an astronaut riding a horse", 20
RESOLUTION, PICTURES_AT_ONCE = 512, 4  # of pictures that are only decoded


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers, float32, the same on both sides."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def token_ids(batch: int) -> np.ndarray:
    """Random words, the same on both sides."""
    return np.random.default_rng(0).integers(0, 49000, (batch, TOKENS))
