"""New words that a run teaches the text encoder."""

import re
from typing import Annotated

import pydantic

from flax_sd.config.section import Positive, Section, pairs, refuse_idle


class TokensConfig(Section):
    """New words for captions and prompts, whose embeddings are trained: by themselves in mode
    textual_inversion, with the LoRA in mode lora."""

    names: Annotated[dict[str, str], pairs("TOKEN=WORDS")] = {}
    """New words, and the words whose embeddings they start from, as {<my-cat>: cat}."""
    vectors: Positive | None = None
    """Number of embeddings, and so of positions in a prompt, of each new word; unset is the number
    of tokens of the words it starts from."""

    @pydantic.field_validator("names")
    @classmethod
    def _can_be_told_apart(cls, value: dict[str, str]) -> dict[str, str]:
        problems = []
        for name, initial in value.items():
            if not initial.strip():
                problems.append(f"{name} begins as nothing: name a word near it")
            problems += [f"{name} begins as {n}, a new one" for n in value if n in initial]
        if len({word(name) for name in value} - {""}) < len(value):
            problems.append("each needs letters of its own, which name its file")
        if problems:
            raise ValueError("; ".join(problems))
        return value

    @pydantic.model_validator(mode="after")
    def _no_idle_options(self) -> "TokensConfig":
        refuse_idle(self, {"vectors": bool(self.names)})
        return self


def word(name: str) -> str:
    """Returns the characters of a token that may stand in a file name."""
    return re.sub(r"[^\w-]", "", name)
