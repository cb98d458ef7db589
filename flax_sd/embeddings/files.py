"""The embedding files that other tools exchange: a token each, of one vector or several.

diffusers writes {token: [d] or [n, d]}; sd-scripts, A1111 and ComfyUI {"emb_params": [n, d]}, and
take the file's name for the token. The latter three read any file of one tensor.
"""

import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from flax_sd.errors import UserError
from flax_sd.files.paths import named
from flax_sd.weights import safetensors
from flax_sd.weights.fill import check_finite
from flax_sd.weights.safetensors import TensorFile

EMBEDS_FILE = "learned_embeds.safetensors"  # diffusers' name
KOHYA_KEY = "emb_params"
_FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "SDXL"}
_LONGEST = 75  # vectors: more than a prompt has room for


class Embedding(NamedTuple):
    """A token and its vectors."""

    token: str
    vectors: Float[np.ndarray, "n d"]


def locate(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the embedding file: the path itself, or a file of the usual name in a folder.

    Raises:
      UserError: it is no path, a folder that has none, or a pickle.
    """
    path = named(path)
    if path.is_dir():
        if not (path / EMBEDS_FILE).is_file():
            is_lora = (path / "lora.safetensors").is_file()
            hint = ": it holds a LoRA (--lora, add_lora)" if is_lora else ""
            raise UserError(f"{path} is a folder without {EMBEDS_FILE}{hint}")
        return path / EMBEDS_FILE
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        tensor = f"torch.load({path.name!r})"
        if path.suffix == ".pt":  # as A1111 writes it
            tensor = f'{{"{KOHYA_KEY}": {tensor}["string_to_param"]["*"]}}'
        raise UserError(
            f"{path} is a pickle, which can run code when it is opened; convert it where it comes "
            f"from with safetensors.torch.save_file({tensor}, '{path.stem}.safetensors')"
        )
    return path


def is_embedding(file: TensorFile) -> bool:
    """Tells whether a file holds one tensor, [d] or [n, d], as embedding files do."""
    return len(file) == 1 and len(file.shape(next(iter(file)))) in (1, 2)


def family(width: int) -> str:
    """Names the models whose text encoder has that width."""
    return _FAMILIES.get(width, "another model")


def read(path: str | os.PathLike[str], width: int, token: str | None = None) -> Embedding:
    """Reads an embedding file of diffusers, sd-scripts, A1111 or ComfyUI.

    Args:
      path: the file, or a folder that holds `learned_embeds.safetensors`.
      width: of the text encoder.
      token: what it is called in prompts; unset takes the file's own, or its name.

    Raises:
      UserError: it is no embedding, or is one for another model.
    """
    file = TensorFile(locate(path))
    where = f"embedding {file.path}"
    if {"clip_l", "clip_g"} & set(file):
        raise UserError(f"{where} is for SDXL (it holds clip_l, clip_g), which is not there yet")
    if not is_embedding(file):
        some = ", ".join(f"{key} {list(file.shape(key))}" for key in sorted(file)[:3])
        raise UserError(
            f"{where} holds {some or 'nothing'}: it should hold one tensor [d] or [n, d] "
            f"under its token's name, or under {KOHYA_KEY}"
        )
    (key,) = file
    vectors = np.atleast_2d(np.array(file[key], np.float32))
    _check(where, vectors, width)
    return Embedding(token or (file.path.stem if key == KOHYA_KEY else key), vectors)


def _check(where: str, vectors: np.ndarray, width: int) -> None:
    count, found = vectors.shape
    if found != width:
        family = f" ({_FAMILIES[found]})" if found in _FAMILIES else ""
        raise UserError(
            f"{where} has vectors {found} wide{family}; this model's text encoder is {width} wide"
        )
    if not 1 <= count <= _LONGEST:
        raise UserError(f"{where} has {count} vectors: a prompt has room for 1 to {_LONGEST}")
    if not np.isfinite(vectors).all():
        raise UserError(f"{where} holds NaN or infinite values")


def write(
    path: str | os.PathLike[str],
    embedding: Embedding,
    key: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes {token: [n, d]}, which diffusers, A1111 and ComfyUI read; equal inputs give equal
    bytes.

    Args:
      key: in place of the token.
      metadata: further header entries.

    Raises:
      UserError: a value is not finite, or the file cannot be written.
    """
    tensors = {key or embedding.token: np.asarray(embedding.vectors)}
    check_finite(path, tensors)
    safetensors.write(path, tensors, {"format": "pt", **(metadata or {})})


def embedding_hash(path: pathlib.Path) -> str:
    """Returns the hash of an embedding in web UIs: SHA-256 of the file, 12 digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
