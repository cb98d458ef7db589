"""What both sides are given."""

import numpy as np

TOKENS, LORA_RANK = 77, 4
PROMPT, STEPS = "a photograph of an astronaut riding a horse", 20


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers, float32, the same on both sides."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
