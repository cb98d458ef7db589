"""What flags name: models, LoRA and embedding files, and how a picture's settings speak of them."""

import hashlib
import math
import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from flax_sd.errors import UserError
from flax_sd.lora.read import locate
from flax_sd.weights.safetensors import TensorFile

_BLOCK, _BLOCKS = 2**16, 16  # bytes, places


class LoRASource(NamedTuple):
    """A LoRA file and its strength."""

    path: pathlib.Path
    scale: float


def parse_lora(text: str) -> LoRASource:
    """PATH or PATH:SCALE; a path may hold colons.

    Raises:
      UserError: there is no such file, it is a pickle or damaged, or the scale is no number.
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
    TensorFile(locate(path))  # which looks at the header alone
    return LoRASource(pathlib.Path(path), scale)


class EmbeddingSource(NamedTuple):
    """An embedding file, and what its token is called in prompts; None for the file's own."""

    path: pathlib.Path
    token: str | None


def parse_embedding(text: str) -> EmbeddingSource:
    """PATH or PATH:TOKEN; a path may hold colons.

    Raises:
      UserError: there is no such file.
    """
    path, token = text, None
    if not os.path.exists(text) and ":" in text:
        path, _, token = text.rpartition(":")
    if not os.path.exists(path):
        raise UserError(f"embedding {text} is not there; write PATH or PATH:TOKEN")
    return EmbeddingSource(pathlib.Path(path), token or None)


def embedding_hash(path: pathlib.Path) -> str:
    """What web UIs know an embedding by: SHA-256 of the file, 12 digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def lora_hash(path: pathlib.Path) -> str:
    """What web UIs know a LoRA by: SHA-256 of what follows the file's header, 12 digits.

    Args:
      path: the file, or a folder that holds it under one of its usual names.
    """
    digest = hashlib.sha256()
    with locate(path).open("rb") as stream:
        stream.seek(8 + int.from_bytes(stream.read(8), "little"))
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:12]


def fingerprint(files: Iterable[pathlib.Path]) -> str:
    """Tells models apart without reading gigabytes: SHA-256 of samples of the files, 10 digits."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            for place in range(_BLOCKS):
                stream.seek(max(0, size - _BLOCK) * place // (_BLOCKS - 1))
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()[:10]


def display_name(source: str) -> str:
    """A hub id or bundled name as it is; of a folder the last part, for paths are private."""
    if source.startswith("bundled:") or not is_local(source):
        return source
    return pathlib.Path(source).expanduser().resolve().name


def is_local(source: str) -> bool:
    """Whether it can be looked up without the network."""
    return source.count("/") != 1 or source.startswith((".", "~")) or pathlib.Path(source).exists()
