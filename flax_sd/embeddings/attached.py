"""Adds new tokens to the tables of text encoders and their tokenizers, and removes them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from flax_sd.embeddings.embedding import Embedding
from flax_sd.errors import UserError
from flax_sd.models.clip import CLIPTextModel, NewTokens
from flax_sd.models.tokenizer import Tokenizer

Rows = np.ndarray | jax.Array | jax.ShapeDtypeStruct  # [n, d]; the latter in an abstract model


def attach(
    text_encoder: CLIPTextModel, tokenizer: Tokenizer, tokens: Mapping[str, Rows]
) -> Tokenizer:
    """Gives the text encoder these tokens, replacing earlier ones; returns a function that finds
    them in text.

    A token of n vectors is n placeholders, as in diffusers: `<cat>`, `<cat>_1`, `<cat>_2`.

    Args:
      tokenizer: without new tokens.
      tokens: a token's vectors, [n, d].

    Raises:
      UserError: the tokenizer knows such a token already; all are named.
    """
    names = [name for token, rows in tokens.items() for name in placeholders(token, len(rows))]
    _check_free(tokenizer, names)
    embeddings = text_encoder.text_model.embeddings
    if not names:
        embeddings.new_tokens = None
        return tokenizer
    embeddings.new_tokens = NewTokens(_stacked(list(tokens.values())))
    return tokenizer.with_tokens(names, first=len(embeddings.token_embedding.embedding))


def placeholders(token: str, count: int) -> list[str]:
    """Returns the placeholder characters of a token with that many vectors."""
    return [token, *(f"{token}_{i}" for i in range(1, count))]


def _check_free(tokenizer: Tokenizer, names: list[str]) -> None:
    lower = [name.lower() for name in names]
    known = [name for name in names if tokenizer.knows(name)]
    twice = [name for i, name in enumerate(names) if lower.index(name.lower()) != i]
    problems = [f"{name!r} is in the vocabulary already" for name in known]
    problems += [f"{name!r} exists already (case does not count)" for name in twice]
    problems += ["a token must have a letter or sign" for name in names if not name.strip()]
    if problems:
        raise UserError(f"new tokens: {'; '.join(problems)}: take others, such as <my-cat>")


def _stacked(rows: list[Rows]) -> jax.Array | jax.ShapeDtypeStruct:
    shape = sum(len(one) for one in rows), rows[0].shape[1]
    if any(isinstance(one, jax.ShapeDtypeStruct) for one in rows):
        return jax.ShapeDtypeStruct(shape, jnp.float32)
    return jnp.concatenate([jnp.asarray(one, jnp.float32) for one in rows])


class AttachedTokens:
    """The new tokens of a pipeline, by name."""

    def __init__(self, tokenizers: Mapping[str, Tokenizer]):
        """Begins without tokens.

        Args:
          tokenizers: the checkpoint's own, by the text encoder's component.
        """
        self._plain, self._added = dict(tokenizers), dict[str, Embedding]()

    def add(
        self, text_encoders: Mapping[str, CLIPTextModel], *embeddings: Embedding
    ) -> list[Tokenizer]:
        """Attaches tokens to all text encoders, or none of them; returns the tokenizers that know
        them.

        Raises:
          UserError: one is there, or in a vocabulary.
        """
        new = {embedding.token: embedding for embedding in embeddings}
        for token in new.keys() & self._added.keys():
            raise UserError(
                f"an embedding called {token!r} exists already; remove it or name this one"
            )
        added = self._attach(text_encoders, self._added | new)
        self._added |= new
        return added

    def remove(self, text_encoders: Mapping[str, CLIPTextModel], *tokens: str) -> list[Tokenizer]:
        """Removes tokens; returns the tokenizers without them.

        Raises:
          UserError: there is none of that name.
        """
        for token in set(tokens) - self._added.keys():
            there = ", ".join(self._added) or "none"
            raise UserError(f"there is no embedding called {token!r}; there is {there}")
        self._added = {name: own for name, own in self._added.items() if name not in tokens}
        return self._attach(text_encoders, self._added)

    @property
    def names(self) -> list[str]:
        """The tokens that were added."""
        return list(self._added)

    def _attach(
        self, text_encoders: Mapping[str, CLIPTextModel], embeddings: Mapping[str, Embedding]
    ) -> list[Tokenizer]:
        """Attaches all tokens to all text encoders, or none to any."""
        names = [
            name
            for token, embedding in embeddings.items()
            for name in placeholders(token, embedding.length)
        ]
        for tokenizer in self._plain.values():
            _check_free(tokenizer, names)
        return [
            attach(
                text_encoders[component],
                tokenizer,
                {token: embedding.tables[component] for token, embedding in embeddings.items()},
            )
            for component, tokenizer in self._plain.items()
        ]
