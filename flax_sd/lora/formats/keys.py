"""Which layer and which of its tensors a LoRA file's keys mean, over all formats.

Names are looked up in a table made from the layers that there may be. Turning kohya's `_` back
into `.` would have to guess where a module's name ends (`to_q`, `proj_in`, `time_emb_proj`).
"""

import collections
import re
from collections.abc import Iterable, Iterator, Sequence

from flax_sd.lora.formats import FORMATS
from flax_sd.lora.formats.format import LayerRef, spellings
from flax_sd.weights.ldm.renaming import Renaming

_PARTS = sorted({part for row in FORMATS for part in row.ends})
_ENDS = "|".join(
    f"(?P<{part}>{'|'.join(row.ends[part] for row in FORMATS if part in row.ends)})"
    for part in _PARTS
)
_KEY = re.compile(rf"(?P<name>.+?)(?:{_ENDS})")
_TITLES = {pattern: title for row in FORMATS for pattern, title in row.titles.items()}


def split_key(key: str) -> tuple[str, str] | None:
    """Splits a key of any format into the file's name for a layer, and the part.

    The part is "down", "up", "alpha" or, of a DoRA, "magnitude". None if the key has no such form.
    """
    found = _KEY.fullmatch(key)
    return (found["name"], found.lastgroup or "") if found else None


def name_table(
    layers: Iterable[LayerRef], originals: Sequence[Renaming] = ()
) -> dict[str, LayerRef]:
    """Returns every name that a file may have for one of the layers.

    Args:
      originals: original (LDM) names of the UNet's layers.
    """
    table: dict[str, LayerRef] = {}
    for layer in layers:
        for name in _names(layer, originals):
            table.setdefault(name, layer)
    return table


def _names(layer: LayerRef, originals: Sequence[Renaming]) -> Iterator[str]:
    for path in spellings(layer.path):
        for row in FORMATS:
            yield from row.names(layer._replace(path=path))
    for renaming in originals if layer.component == "unet" else ():
        if path := renaming.to_ldm(layer.path):
            for row in FORMATS:
                yield from row.original_names(path)


def format_titles(keys: Iterable[str]) -> str:
    """Names the formats that the keys have; the commonest first, if they differ."""
    found = collections.Counter(
        next((title for start, title in _TITLES.items() if re.match(start, key)), "")
        for key in keys
    )
    return " and ".join(title for title, _ in found.most_common() if title)
