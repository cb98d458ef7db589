"""The new tokens of a run: their initial vectors, the check of their captions, and their files."""

import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from flax_sd import data
from flax_sd.config import TokensConfig
from flax_sd.embeddings import attached
from flax_sd.embeddings.embedding import Embedding
from flax_sd.embeddings.files import write
from flax_sd.errors import UserError
from flax_sd.models.clip import CLIPTextModel
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.weights.fill import rounded


def begin(cfg: TokensConfig, text_encoder: CLIPTextModel, tokenizer: Tokenizer) -> Tokenizer:
    """Adds rows to the text encoder, copies of old ones; returns a tokenizer with the new tokens.

    They start as in diffusers' textual_inversion.py; an abstract text encoder gets abstract rows.

    Raises:
      UserError: the vocabulary has such a token, or a token has fewer vectors than initial tokens.
    """
    table = text_encoder.text_model.embeddings.token_embedding.embedding.get_value()

    def rows(ids: list[int]) -> attached.Rows:
        if isinstance(table, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct((len(ids), table.shape[1]), np.float32)
        return table[np.array(ids)]

    initial = initial_ids(cfg, tokenizer)
    tokens = {name: rows(ids) for name, ids in initial.items()}
    return attached.attach(text_encoder, tokenizer, tokens)


def initial_ids(cfg: TokensConfig, tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Returns the initial token ids of each new token's vectors; too few ids are repeated.

    Raises:
      UserError: there are more ids than vectors.
    """
    found, problems = {}, []
    for name, words in cfg.names.items():
        ids = tokenizer.encode(words)
        count = cfg.vectors or len(ids)
        if len(ids) > count:
            problems.append(f"{name} starts as {words!r}, which has {len(ids)} tokens")
        found[name] = [ids[i % len(ids)] for i in range(count)]
    if problems:
        raise UserError(f"tokens.vectors is {cfg.vectors}: {'; '.join(problems)}")
    return found


def counted(cfg: TokensConfig, tokenizer: Tokenizer) -> Tokenizer:
    """Returns a tokenizer that counts each new token with all of its vectors."""
    names = [
        placeholder
        for name, ids in initial_ids(cfg, tokenizer).items()
        for placeholder in attached.placeholders(name, len(ids))
    ]
    return tokenizer.with_tokens(names, first=0) if names else tokenizer


def check_captions(cfg: TokensConfig, images: data.Images) -> None:
    """Checks that each new token is in a caption.

    Raises:
      UserError: a token is in no caption.
    """
    captions = [text.lower() for i in range(len(images)) for text in images.captions(i)]
    absent = [name for name in cfg.names if not any(name.lower() in text for text in captions)]
    if absent:
        raise UserError(
            f"tokens.names: no caption of {images.cfg.path} contains {', '.join(absent)}: add it "
            f'to the captions, or use a data.template such as "{{}}, {absent[0]}"'
        )


def write_all(
    cfg: TokensConfig,
    text_encoders: Mapping[str, CLIPTextModel],
    tokenizer: Tokenizer,
    files: dict[str, pathlib.Path],
    dtype: str = "float32",
) -> None:
    """Writes the trained vectors of each token, a table for each text encoder.

    Args:
      text_encoders: by component.
      tokenizer: of the first one.
      files: of each token.

    Raises:
      UserError: a file cannot be written, or the dtype cannot hold a number.
    """
    rows, start = {name: _trained(encoder) for name, encoder in text_encoders.items()}, 0
    for token, ids in initial_ids(cfg, tokenizer).items():
        tables = {name: own[start : start + len(ids)] for name, own in rows.items()}
        write(files[token], Embedding(token, rounded(tables, dtype, files[token])))
        start += len(ids)


def _trained(text_encoder: CLIPTextModel) -> np.ndarray:
    """Returns the vectors of all new tokens, [k, d]."""
    new_tokens = text_encoder.text_model.embeddings.new_tokens
    assert new_tokens is not None, "begin() was not called"
    return np.asarray(new_tokens[...])
