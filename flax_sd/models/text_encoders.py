"""Prompts' ids through a model's text encoders, to what the UNet reads."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_sd.models.clip import TextStates


class TextRule(NamedTuple):
    """Which states of its text encoders a family's UNet reads.

    Attributes:
      skip: number of last layers that it does without.
      normed: the last norm is applied to them.
      pooled: it reads the pooled state of the last encoder too.
    """

    skip: int = 0
    normed: bool = True
    pooled: bool = False


ALL_LAYERS = TextRule()


def encode_ids(
    text_encoders: Sequence[Callable[..., TextStates]],
    ids: Sequence[Int[Array, "b *k n"]],
    skip: int,
    rule: TextRule,
) -> TextStates:
    """Returns the text states of all encoders side by side, and perhaps the last's pooled state.

    Chunks of a long prompt are read one by one, and of their first and last tokens only the
    prompt's first and last stay, as in sd-scripts (`encode_tokens` of library/strategy_sd.py):
    m = 1 + k (n - 2) + 1. The pooled state is that of the first chunk, as there.

    Args:
      ids: for each encoder, of prompts [b, n] or of prompts in chunks [b, k, n].
      skip: last layers to leave out besides those of the rule.

    Returns:
      text [b, m, d], with the widths of the encoders added, and pooled [b, d]; None where the rule
      has none.
    """
    found = [
        _encoded(encoder, own, skip, rule) for encoder, own in zip(text_encoders, ids, strict=True)
    ]
    text = jnp.concatenate([states.text for states in found], axis=-1)
    return TextStates(text, found[-1].pooled if rule.pooled else None)


def _encoded(
    text_encoder: Callable[..., TextStates], ids: Int[Array, "b *k n"], skip: int, rule: TextRule
) -> TextStates:
    flat = text_encoder(ids.reshape(-1, ids.shape[-1]), skip + rule.skip, normed=rule.normed)
    if ids.ndim == 2:
        return flat
    text = flat.text.reshape(*ids.shape[:2], *flat.text.shape[1:])
    pooled = None if flat.pooled is None else flat.pooled.reshape(*ids.shape[:2], -1)[:, 0]
    return TextStates(_joined(text), pooled)


def _joined(text: Float[Array, "b k n d"]) -> Float[Array, "b m d"]:
    """Returns the states of chunks as those of one prompt."""
    inner = text[:, :, 1:-1].reshape(len(text), -1, text.shape[-1])
    return jnp.concatenate([text[:, 0, :1], inner, text[:, -1, -1:]], axis=1)
