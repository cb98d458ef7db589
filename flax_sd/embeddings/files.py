"""The embedding files that other tools exchange: a token each, of one vector or several.

diffusers writes {token: [d] or [n, d]}; sd-scripts, A1111 and ComfyUI {"emb_params": [n, d]}, and
take the file's name for the token. The latter three read any file of one tensor. Of SDXL all write
{"clip_l": [n, 768], "clip_g": [n, 1280]}, a table for each text encoder.
"""

import hashlib
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from flax_sd.embeddings.embedding import CLIP_KEYS, ONE, Embedding, fitted
from flax_sd.errors import UserError
from flax_sd.files.paths import named
from flax_sd.weights import safetensors
from flax_sd.weights.fill import check_finite
from flax_sd.weights.safetensors import TensorFile

EMBEDS_FILE = "learned_embeds.safetensors"  # diffusers' name
KOHYA_KEY = "emb_params"
TOKEN = "flax_sd_token"  # in the header of a file whose tables do not name their token


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
    """Tells whether a file holds what embedding files do: one table [d] or [n, d], or SDXL's."""
    if not all(len(file.shape(key)) in (1, 2) for key in file):
        return False
    return len(file) == 1 or (len(file) > 1 and file.keys() <= CLIP_KEYS.keys())


def token_of(file: TensorFile) -> str:
    """Returns the token of a file: the one that it names, or else the file's name."""
    (first, *_), named = file, file.metadata.get(TOKEN)
    return named or (file.path.stem if first in (KOHYA_KEY, *CLIP_KEYS) else first)


def read(
    path: str | os.PathLike[str], widths: Mapping[str, int], token: str | None = None
) -> Embedding:
    """Reads an embedding file of diffusers, sd-scripts, A1111 or ComfyUI.

    Args:
      path: the file, or a folder that holds `learned_embeds.safetensors`.
      widths: of the model's text encoders, by component.
      token: what it is called in prompts; unset takes the file's own, or its name.

    Raises:
      UserError: it is no embedding, or is one for another model.
    """
    file = TensorFile(locate(path))
    where = f"embedding {file.path}"
    if not is_embedding(file):
        some = ", ".join(f"{key} {list(file.shape(key))}" for key in sorted(file)[:3])
        raise UserError(
            f"{where} holds {some or 'nothing'}: it should hold one tensor [d] or [n, d] "
            f"under its token's name or under {KOHYA_KEY}, or for SDXL two, "
            f"{' and '.join(CLIP_KEYS)}"
        )
    tables = {key: np.atleast_2d(np.array(rows, np.float32)) for key, rows in file.items()}
    return Embedding(token or token_of(file), fitted(where, tables, widths))


def read_written(path: pathlib.Path, token: str) -> Embedding:
    """Reads a token's file as `write` made it, in the dtype that it has.

    Raises:
      UserError: the file is damaged.
    """
    file = TensorFile(path)
    return Embedding(token, {CLIP_KEYS.get(key, ONE): rows for key, rows in file.items()})


def write(
    path: str | os.PathLike[str],
    embedding: Embedding,
    key: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes {token: [n, d]}, or for SDXL {clip_l: [n, d], clip_g: [n, d]}, which diffusers, A1111
    and ComfyUI read; equal inputs give equal bytes.

    SDXL's tables have fixed names, so the token is in the header, where `read` finds it.

    Args:
      key: in place of the token, for a single table.
      metadata: further header entries.

    Raises:
      UserError: a value is not finite, or the file cannot be written.
    """
    header = {"format": "pt", **(metadata or {})}
    if embedding.tables.keys() == {ONE}:
        tensors = {key or embedding.token: np.asarray(embedding.tables[ONE])}
    else:
        keys = {component: clip for clip, component in CLIP_KEYS.items()}
        tensors = {keys[name]: np.asarray(rows) for name, rows in embedding.tables.items()}
        header |= {TOKEN: embedding.token}
    check_finite(path, tensors)
    safetensors.write(path, tensors, header)


def embedding_hash(path: pathlib.Path) -> str:
    """Returns the hash of an embedding in web UIs: SHA-256 of the file, 12 digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
