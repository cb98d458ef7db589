"""What LoRA files call a layer, and which layer of the model each of those names means.

Names are looked up in a table made from the model's own layers. Turning `_` back into `.` would
have to guess where a module's name ends (`to_q`, `proj_in`, `time_emb_proj`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

# The first is what is written; diffusers calls SD 1's text encoder te1 in its kohya export.
_KOHYA = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
_PARTS = {"down": "down", "up": "up", "A": "down", "B": "up"}
_TENSOR = re.compile(
    r"(?P<module>.+?)"
    r"(?:\.lora_(?:down|up)"  # kohya
    r"|\.lora_[AB](?:\.[^.]+)?"  # peft; its own state dicts name the adapter too
    r"|[._]lora\.(?:down|up)"  # diffusers now: to_q.lora.down; until 0.21: processor.to_q_lora.down
    r"|\.lora_linear_layer\.(?:down|up))"  # diffusers, text encoders
    r"(?:\.weight)?"
)
_MAGNITUDE = re.compile(r"(?P<module>.+?)\.(?:dora_scale|lora_magnitude_vector(?:\.[^.]+)*)")
_PART = re.compile(r"lora_([AB])|\b(?:lora_)?(down|up)\b")


class TensorName(NamedTuple):
    """A file's key, taken apart: the module as the file calls it, and which tensor of it."""

    module: str
    part: str  # "down", "up", "alpha" or, of a DoRA, "magnitude"


class Place(NamedTuple):
    """A layer of the model."""

    component: str
    path: str


def parse(key: str) -> TensorName | None:
    """Takes a key of any of the file formats apart; None if it has the form of none."""
    if key.endswith(".alpha"):
        return TensorName(re.sub(r"[._]lora$", "", key.removesuffix(".alpha")), "alpha")
    if found := _MAGNITUDE.fullmatch(key):
        return TensorName(found["module"], "magnitude")
    found = _TENSOR.fullmatch(key)
    if not found:
        return None
    part = _PART.search(key, found.end("module"))
    assert part, key
    return TensorName(found["module"], _PARTS[part[1] or part[2]])


def kohya_name(component: str, path: str, prefix: str | None = None) -> str:
    """The name in kohya's files: `lora_unet_down_blocks_0_…`, `lora_te_text_model_…`."""
    return (prefix or _KOHYA[component][0]) + path.replace(".", "_")


def kohya_names(place: Place) -> set[str]:
    """Every name that kohya's files may have for a layer."""
    return {kohya_name(*place, prefix) for prefix in _KOHYA[place.component]}


def table(layers: Mapping[str, Iterable[str]]) -> dict[str, Place]:
    """Every name that a file may use for a layer.

    Args:
      layers: component -> dotted paths of its linears and convolutions.
    """
    names: dict[str, Place] = {}
    for component, paths in layers.items():
        for path in paths:
            for alias in _aliases(component, path):
                names.setdefault(alias, Place(component, path))
    return names


def by_layer(
    keys: Iterable[str], places: Mapping[str, Place]
) -> tuple[dict[Place, dict[str, str]], list[str], list[str]]:
    """A file's keys by layer and part, those of no layer, and a line for each that is there twice.

    Args:
      places: what `table` gives.
    """
    groups: dict[Place, dict[str, str]] = {}
    unknown, twice = [], []
    for key in sorted(keys):
        name = parse(key)
        place = places.get(name.module) if name else None
        if name is None or place is None:
            unknown.append(key)
        elif name.part in groups.setdefault(place, {}):
            twice.append(f"the same tensor twice: {groups[place][name.part]} and {key}")
        else:
            groups[place][name.part] = key
    return groups, unknown, twice


def _aliases(component: str, path: str) -> Iterator[str]:
    for spelling in _spellings(path):
        yield from (kohya_name(component, spelling, prefix) for prefix in _KOHYA[component])
        for prefix in (f"{component}.", ""):  # files of one network leave the prefix out
            yield prefix + spelling
            yield f"base_model.model.{prefix}{spelling}"  # what peft itself saves


def _spellings(path: str) -> Iterator[str]:
    """The dotted path as it was written over the years."""
    # transformers >= 5 has no `text_model.` in CLIPTextModel, so new files may lack it.
    for known in {path, path.removeprefix("text_model.")}:
        yield known
        parent, _, layer = known.removesuffix(".0").rpartition(".")
        if re.fullmatch(
            r"(.*\.)?attn\d", parent
        ):  # the attention processors of diffusers 0.12-0.21
            yield f"{parent}.processor.{layer}"
        if parent.endswith("self_attn"):
            yield f"{parent}.to_{layer.removesuffix('_proj')}"
