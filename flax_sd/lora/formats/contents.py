"""The content of a LoRA file by layer: read once for loading, `inspect` and `export`."""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from flax_sd.lora.adapter import Adapter
from flax_sd.lora.formats import kohya, peft, sd_layers
from flax_sd.lora.formats.base_models import told_family
from flax_sd.lora.formats.format import LayerRef
from flax_sd.lora.formats.keys import format_titles, name_table, split_key
from flax_sd.lora.formats.ldm_names import unet_renaming
from flax_sd.lora.formats.unsupported import refuse_format
from flax_sd.weights.family import Family
from flax_sd.weights.safetensors import TensorFile

BUNDLED = "bundle_emb."  # what the keys of embeddings beside a LoRA begin with


class LayerTensors(NamedTuple):
    """One layer's update.

    Attributes:
      keys: of the file, by part: "down", "up", "alpha", "magnitude".
      alpha: such that the scale is alpha / rank, also of a rank-stabilised LoRA.
    """

    keys: dict[str, str]
    rank: int
    alpha: float


class LoRAContents(NamedTuple):
    """The layers of a file.

    Attributes:
      formats: whose names it has.
      layers: those whose tensors fit one another.
      is_rank_stabilised: its config says that the scale is alpha / √rank.
      unknown: keys of no layer.
      bundled: keys of embeddings beside the LoRA, which are read elsewhere.
      problems: tensors that are missing, there twice or that do not fit one another.
    """

    file: TensorFile
    formats: str
    layers: dict[LayerRef, LayerTensors]
    is_rank_stabilised: bool
    unknown: list[str]
    problems: list[str]
    bundled: list[str]

    @property
    def is_dora(self) -> bool:
        """Tells whether a layer has magnitudes."""
        return any("magnitude" in layer.keys for layer in self.layers.values())

    def tensors(self) -> list[tuple[str, str, LayerRef]]:
        """Returns the key, the part and the layer of each tensor of a layer."""
        layers = self.layers.items()
        return [(key, part, ref) for ref, one in layers for part, key in one.keys.items()]

    @property
    def family(self) -> Family | None:
        """The family of models that it is for, as far as names, shapes and header tell it."""
        return told_family(self.file, self.inputs(), self.file.metadata)

    def inputs(self) -> dict[LayerRef, int]:
        """Returns the number of inputs of each layer."""
        return {ref: self.file.shape(one.keys["down"])[1] for ref, one in self.layers.items()}

    def adapter(self, ref: LayerRef) -> tuple[Adapter, list[str]]:
        """Returns a layer's update in float32, and what is wrong with its numbers."""
        keys, _, alpha = self.layers[ref]
        arrays = {part: np.asarray(self.file[key], np.float32) for part, key in keys.items()}
        finite = {part: np.isfinite(array).all() for part, array in arrays.items()}
        wrong = [f"NaN or infinite: {keys[part]}" for part in arrays if not finite[part]]
        magnitude = arrays.get("magnitude")
        if magnitude is not None:
            if kohya.is_of_inputs(keys["magnitude"], magnitude.shape):
                wrong.append(f"{keys['magnitude']} has a magnitude for each input, not each output")
            magnitude = magnitude.reshape(-1)
        return Adapter(arrays["down"], arrays["up"], alpha, magnitude), wrong


def read_contents(file: TensorFile, known: Collection[LayerRef] = ()) -> LoRAContents:
    """Finds the layers of a LoRA file.

    Args:
      known: layers of a model, beside those that any Stable Diffusion may have. The numbers in
        original (LDM) names are then counted by its blocks.

    Raises:
      UserError: it is no LoRA, is of a format that is not read, or its scale is in a config of
        PEFT's that is not there or not readable.
    """
    refuse_format(file)
    names = {**sd_layers.names(original=not known), **_names_of(known)}
    groups, unknown, problems = _by_layer(file, names)
    config = peft.read_config(file)
    found: dict[LayerRef, LayerTensors] = {}
    for ref, keys in groups.items():
        if wrong := _misshaped(file, keys):
            problems.append(wrong)
            continue
        rank = file.shape(keys["down"])[0]
        if "alpha" in keys:
            alpha = np.asarray(file[keys["alpha"]], np.float32).item()
        else:
            alpha = float(rank) if config is None else config.alpha(ref, rank)
        found[ref] = LayerTensors(keys, rank, alpha)
    stabilised = config is not None and config.is_rank_stabilised
    bundled = [key for key in unknown if key.startswith(BUNDLED)]
    unknown = [key for key in unknown if not key.startswith(BUNDLED)]
    return LoRAContents(file, format_titles(file), found, stabilised, unknown, problems, bundled)


def _names_of(known: Collection[LayerRef]) -> dict[str, LayerRef]:
    unet = [ref.path for ref in known if ref.component == "unet"]
    return name_table(known, [unet_renaming(unet)] if unet else ())


def _by_layer(
    file: TensorFile, names: Mapping[str, LayerRef]
) -> tuple[dict[LayerRef, dict[str, str]], list[str], list[str]]:
    """Returns keys by layer and part, keys of no layer, and a line for each duplicate."""
    groups: dict[LayerRef, dict[str, str]] = {}
    unknown, twice = [], []
    for key in sorted(file):
        name, part = split_key(key) or ("", "")
        ref = names.get(name)
        if ref is None:
            unknown.append(key)
        elif part in groups.setdefault(ref, {}):
            twice.append(f"the same tensor twice: {groups[ref][part]} and {key}")
        else:
            groups[ref][part] = key
    return groups, unknown, twice


def _misshaped(file: TensorFile, keys: dict[str, str]) -> str:
    """Returns why a layer's tensors are no update; empty if they are one."""
    missing = {"down", "up"} - keys.keys()
    if missing:
        return f"no {' or '.join(sorted(missing))} beside {min(keys.values())}"
    down, up = file.shape(keys["down"]), file.shape(keys["up"])
    if not math.prod(down):
        return f"rank 0: {keys['down']}"
    if len(down) < 2 or len(up) < 2 or math.prod(up[1:]) != down[0]:
        return f"{keys['down']} is {list(down)} and up {list(up)}: not [rank, …] and [out, rank, …]"
    if "alpha" in keys and math.prod(file.shape(keys["alpha"])) != 1:
        return f"{keys['alpha']} is {list(file.shape(keys['alpha']))}, not one number"
    return ""
