"""PEFT's LoRA files and the kinds of them that diffusers has written.

A layer's name is its dotted path. Alpha stands in PEFT's config, in the header or in a JSON file
beside; without a config it is the rank.
"""

import json
import math
import os
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.lora.adapter import LoRAFile
from flax_sd.lora.formats.format import Format, LayerRef, flatten, with_alpha
from flax_sd.weights import safetensors
from flax_sd.weights.fill import check_finite
from flax_sd.weights.safetensors import TensorFile

_RAW = "base_model.model."  # before every key of a file that peft itself saved
_HEADER_KEY = "lora_adapter_metadata"  # of diffusers; its keys are prefixed by component
_CONFIG_NAME = "adapter_config.json"


def names(layer: LayerRef) -> list[str]:
    """Returns the names of a layer; the first is what is written."""
    dotted = [f"{layer.component}.{layer.path}", layer.path]  # the latter in files of one network
    return [*dotted, *(_RAW + name for name in dotted)]


_OLD = r"(?:[._]lora|\.lora_linear_layer)"
FORMAT = Format(
    {
        re.escape(_RAW): "PEFT's names, as peft saves them",
        r".*\.lora_([AB]\b|magnitude_vector)": "PEFT's names (diffusers writes them too)",
        r".*(\.processor\.|_lora\.)": "diffusers' old names (attention processors)",
        r".*\.(lora|lora_linear_layer)\.(down|up)": "diffusers' old names (lora.down)",
    },
    {  # peft's own state dicts have the adapter's name behind lora_A
        "down": rf"(?:\.lora_A(?:\.[^.]+)?|{_OLD}\.down)(?:\.weight)?",
        "up": rf"(?:\.lora_B(?:\.[^.]+)?|{_OLD}\.up)(?:\.weight)?",
        "alpha": r"(?:[._]lora)?\.alpha",
        "magnitude": r"\.lora_magnitude_vector(?:\.[^.]+)*",
    },
    names,
)


class PEFTConfig(NamedTuple):
    """PEFT's config of a file.

    Attributes:
      where: the place that it stands in, for messages.
      options: by PEFT's names, behind the component's name in a header of diffusers.
    """

    where: str
    options: JsonObject

    @property
    def is_rank_stabilised(self) -> bool:
        """Tells whether the scale is alpha / √rank."""
        return any(value for key, value in self.options.items() if key.endswith("use_rslora"))

    def alpha(self, layer: LayerRef, rank: int) -> float:
        """Returns alpha so that alpha / rank is PEFT's scaling (0.21.2, tuners/lora/layer.py).

        Raises:
          UserError: the config has none, or asks for more than a LoRA or DoRA.
        """
        options = self._of_component(layer.component)
        for option in ("lora_bias", "fan_in_fan_out"):
            if options.get(option):
                raise UserError(f"{self.where}: {option} is not supported, only LoRA and DoRA are")
        alpha = options.get("lora_alpha", rank)
        for pattern, own in (options.get("alpha_pattern") or {}).items():
            try:
                found = re.match(rf"(.*\.)?({pattern})$", layer.path)
            except re.error as error:
                raise UserError(f"{self.where}: alpha_pattern {pattern!r}: {error}") from error
            if found:
                alpha = own
                break
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
            raise UserError(f"{self.where}: the alpha of {layer.path} is {alpha!r}, not a number")
        return float(alpha) * (math.sqrt(rank) if options.get("use_rslora") else 1)

    def _of_component(self, component: str) -> JsonObject:
        """Returns the options of a network: with its prefix stripped, or all if none has a
        prefix."""
        if not any(key.startswith(("unet.", "text_encoder")) for key in self.options):
            return self.options
        start, items = f"{component}.", self.options.items()
        return {key.removeprefix(start): v for key, v in items if key.startswith(start)}


def read_config(file: TensorFile) -> PEFTConfig | None:
    """Reads PEFT's config; None if the file comes without one.

    Raises:
      UserError: the config is not readable, or is not there and the file cannot be without.
    """
    beside = file.path.with_name(_CONFIG_NAME)
    if _HEADER_KEY in file.metadata:
        where, text = f"{file.path}: {_HEADER_KEY} in the header", file.metadata[_HEADER_KEY]
    elif not any(key.startswith(_RAW) for key in file):
        return None
    elif beside.is_file():
        where, text = str(beside), beside.read_bytes()
    else:
        raise UserError(
            f"{file.path} is as peft saves it, and its scale is in {_CONFIG_NAME}: "
            f"put that file beside it"
        )
    try:
        options = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise UserError(f"{where} is not a JSON object")
    return PEFTConfig(where, options)


def write(
    path: str | os.PathLike[str],
    lora: LoRAFile,
    header: dict[str, str] | None = None,
    *,
    dtype: DTypeLike = np.float32,
) -> None:
    """Writes a LoRA as diffusers and PEFT name it: `unet.….lora_A.weight`, `….lora_B.weight`.

    It is written without a config, so alpha / rank is multiplied into `lora_B`. A DoRA's
    magnitudes are `lora_magnitude_vector`.

    Args:
      header: further entries of the header.
      dtype: of all tensors.

    Raises:
      UserError: there is nothing to write, something is not finite or the file cannot be written.
    """
    tensors = {}
    for layer, adapter in flatten(lora).items():
        name = names(layer)[0]
        down, up = with_alpha(adapter, adapter.rank, dtype)
        tensors[f"{name}.lora_A.weight"] = down
        tensors[f"{name}.lora_B.weight"] = up
        if adapter.magnitude is not None:
            shape = (1, -1, 1, 1) if down.ndim == 4 else (-1,)
            # transformers 5 loads text encoders' under this name alone, peft under both.
            end = ".weight" if layer.component.startswith("text_encoder") else ""
            magnitude = adapter.magnitude.reshape(shape).astype(dtype)
            tensors[f"{name}.lora_magnitude_vector{end}"] = magnitude
    check_finite(path, tensors)
    safetensors.write(path, tensors, {"format": "pt"} | (header or {}))
