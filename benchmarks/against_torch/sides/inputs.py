"""What both sides are given."""

import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Run = Callable[[], np.ndarray]  # does the work once; returns what came out

TOKENS, LORA_RANK = 77, 4
PROMPT, STEPS = "a photograph of an astronaut riding a horse", 20
RESOLUTION, PICTURES_AT_ONCE = 512, 4  # of images that are only decoded


class Work(NamedTuple):
    """What a side is asked to do.

    Attributes:
      folder: the model's, or one of images.
      size: images at once, or workers that read them.
      remat: a training step keeps the blocks' inputs alone.
      compiled: torch.compile, where the side is torch.
    """

    folder: pathlib.Path
    size: int = 1
    dtype: str = "float32"
    remat: bool = False
    compiled: bool = False

    def argument(self) -> str:
        """As a word of a command line."""
        values = {**self._asdict(), "folder": str(self.folder.resolve())}
        return json.dumps(values)


def read_work(argument: str) -> Work:
    """The way back."""
    values = json.loads(argument)
    return Work(**{**values, "folder": pathlib.Path(values["folder"])})


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers, float32, the same on both sides."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def token_ids(batch: int) -> np.ndarray:
    """Random words, the same on both sides."""
    return np.random.default_rng(0).integers(0, 49000, (batch, TOKENS))
