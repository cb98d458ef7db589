"""What both sides are given."""

import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Run = Callable[[], np.ndarray]  # does the work once; returns what came out

TOKENS, LORA_RANK = 77, 4
PROMPT, STEPS = "a photograph of an astronaut riding a horse", 20


class Work(NamedTuple):
    """What a side is asked to do.

    Attributes:
      folder: of a model, or of images.
      size: images in a batch, or workers that read them.
      remat: a training step keeps only the inputs of the blocks.
      compiled: torch.compile, where the side is torch.
      resolution: side of the images in pixels; None for that of the model's training.
      steps: of the sampler.
      seconds: time for the runs after the first.
    """

    folder: pathlib.Path
    size: int = 1
    dtype: str = "float32"
    remat: bool = False
    compiled: bool = False
    resolution: int | None = None
    steps: int = STEPS
    seconds: float = 0.0

    def argument(self) -> str:
        """Returns it as a word of a command line."""
        values = {**self._asdict(), "folder": str(self.folder.resolve())}
        return json.dumps(values)


def read_work(argument: str) -> Work:
    """Reads what `Work.argument` returned."""
    values = json.loads(argument)
    return Work(**{**values, "folder": pathlib.Path(values["folder"])})


def normal(seed: int, *shape: int) -> np.ndarray:
    """Draws standard normal numbers in float32, the same on both sides."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def token_ids(batch: int) -> np.ndarray:
    """Draws random words, the same on both sides."""
    return np.random.default_rng(0).integers(0, 49000, (batch, TOKENS))
