"""A new token: its name, and the vectors that each text encoder reads for it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from flax_sd.errors import UserError

ONE = "text_encoder"  # the component of a model that has a single text encoder
# The tables of SDXL's files -> the text encoders that they are for.
CLIP_KEYS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
LONGEST = 75  # vectors: more than a prompt has room for
FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "SDXL"}


class Embedding(NamedTuple):
    """A token and its vectors.

    Attributes:
      token: its name in prompts.
      tables: by the text encoder's component: `text_encoder`, and in SDXL `text_encoder_2` as well;
        [n, d] each, with its own width d.
    """

    token: str
    tables: Mapping[str, Float[np.ndarray, "n d"]]

    @property
    def length(self) -> int:
        """The number of its vectors, each of which takes a place in a prompt."""
        return len(next(iter(self.tables.values())))


def family(width: int) -> str:
    """Names the models whose text encoder has that width."""
    return FAMILIES.get(width, "another model")


def fitted(
    where: str, tables: Mapping[str, np.ndarray], widths: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Returns those of a file's tables that a model's text encoders read.

    Args:
      where: the file, for messages.
      tables: [n, d] each, under the keys of SDXL's files, or one table under any other.
      widths: of the model's text encoders, by component.

    Raises:
      UserError: a text encoder has no table, a table another width, or the numbers of vectors
        differ; all problems are named.
    """
    if not tables.keys() <= CLIP_KEYS.keys():
        found = dict.fromkeys(widths, next(iter(tables.values()))) if len(widths) == 1 else {}
    elif len(widths) == 1 and ONE in widths:
        found = {}
    else:
        own = {CLIP_KEYS[key]: rows for key, rows in tables.items()}
        found = {name: own[name] for name in widths if name in own}
    if found.keys() != widths.keys():
        raise UserError(f"{where} holds {_shapes(tables)}: {_wanted(widths)}")
    problems = [*_misfits(found, widths), *_bad_rows(tables)]
    if problems:
        raise UserError(f"{where} {'; '.join(problems)}")
    return found


def _shapes(tables: Mapping[str, np.ndarray]) -> str:
    named = [f"{key} {list(rows.shape)}" for key, rows in tables.items()]
    return " and ".join(named) + ("" if len(named) > 1 else " alone")


def _wanted(widths: Mapping[str, int]) -> str:
    """Says which tables a model's text encoders need."""
    if widths.keys() == {ONE}:
        width = widths[ONE]
        return f"these are SDXL's; this model reads one table [n, {width}], under another name"
    keys = {component: key for key, component in CLIP_KEYS.items()}
    both = " and ".join(f"{keys[name]} [n, {width}]" for name, width in widths.items())
    return f"this model is SDXL and reads {both}, for its text encoders"


def _misfits(found: Mapping[str, np.ndarray], widths: Mapping[str, int]) -> list[str]:
    problems = []
    for component, rows in found.items():
        width, wanted = rows.shape[1], widths[component]
        if width != wanted:
            models = f" ({FAMILIES[width]})" if width in FAMILIES else ""
            problems.append(
                f"has vectors {width} wide{models}; this model's {component.replace('_', ' ')} is "
                f"{wanted} wide"
            )
    return problems


def _bad_rows(tables: Mapping[str, np.ndarray]) -> list[str]:
    counts = {key: len(rows) for key, rows in tables.items()}
    problems = []
    if len(set(counts.values())) > 1:
        some = " and ".join(f"{count} in {key}" for key, count in counts.items())
        problems.append(f"has {some}: each table should have as many vectors")
    elif not 1 <= (count := next(iter(counts.values()))) <= LONGEST:
        problems.append(f"has {count} vectors: a prompt has room for 1 to {LONGEST}")
    if not all(np.isfinite(rows).all() for rows in tables.values()):
        problems.append("holds NaN or infinite values")
    return problems
