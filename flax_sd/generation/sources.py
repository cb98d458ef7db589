"""The LoRA and embedding files that flags name."""

import math
import os
import pathlib
from typing import NamedTuple

from flax_sd.errors import UserError
from flax_sd.lora.formats.read import locate
from flax_sd.weights.safetensors import TensorFile


class LoRASource(NamedTuple):
    """A LoRA file and its strength."""

    path: pathlib.Path
    scale: float


def parse_lora(text: str) -> LoRASource:
    """Reads PATH or PATH:SCALE; a path may hold colons.

    Raises:
      UserError: there is no such file, it is a pickle or damaged, or the scale is not a number.
    """
    path, scale = text, 1.0
    if not os.path.exists(text) and ":" in text:
        path, _, number = text.rpartition(":")
        try:
            scale = float(number)
        except ValueError as error:
            if os.path.exists(path):
                raise UserError(f"LoRA {path} has scale {number!r}: should be a number") from error
            path = text  # what follows the colon is no scale
    if not os.path.exists(path):
        hint = "; write PATH or PATH:SCALE" if path == text and ":" in text else ""
        raise UserError(f"LoRA {path} is not there{hint}")
    if not math.isfinite(scale):
        raise UserError(f"LoRA {path} has scale {scale}: should be a number")
    TensorFile(locate(path))  # reads only the header
    return LoRASource(pathlib.Path(path), scale)


class EmbeddingSource(NamedTuple):
    """An embedding file, and its token in prompts; None for the token in the file."""

    path: pathlib.Path
    token: str | None


def parse_embedding(text: str) -> EmbeddingSource:
    """Reads PATH or PATH:TOKEN; a path may hold colons.

    Raises:
      UserError: there is no such file.
    """
    path, token = text, None
    if not os.path.exists(text) and ":" in text:
        path, _, token = text.rpartition(":")
    if not os.path.exists(path):
        raise UserError(f"embedding {text} is not there; write PATH or PATH:TOKEN")
    return EmbeddingSource(pathlib.Path(path), token or None)
