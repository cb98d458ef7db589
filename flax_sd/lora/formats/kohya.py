"""kohya's LoRA files (sd-scripts, LyCORIS), which every user interface loads.

A layer's name is its path with `_` for `.`; alpha is a tensor beside down and up.
"""

import math
import os

import numpy as np
from numpy.typing import DTypeLike

from flax_sd.lora.adapter import LoRAFile
from flax_sd.lora.formats.format import Format, LayerRef, flatten, with_alpha
from flax_sd.lora.formats.kohya_families import DIFFUSERS_NAMING, Naming
from flax_sd.weights import safetensors
from flax_sd.weights.fill import check_finite

# diffusers calls SD 1's text encoder te1 too, in its kohya export.
_PREFIXES = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}


def names(layer: LayerRef) -> list[str]:
    """Returns the names of a layer under its dotted path."""
    return [prefix + layer.path.replace(".", "_") for prefix in _PREFIXES[layer.component]]


def original_names(path: str) -> list[str]:
    """Returns the names of the UNet's layer with this original path."""
    return ["lora_unet_" + path.replace(".", "_")]


TITLE = "kohya's names"
FORMAT = Format(
    {r"lora_(unet|te\d?)_": TITLE},
    {
        "down": r"\.lora_down(?:\.weight)?",
        "up": r"\.lora_up(?:\.weight)?",
        "alpha": r"\.alpha",
        "magnitude": r"\.dora_scale",
    },
    names,
    original_names,
)


def is_of_inputs(key: str, shape: tuple[int, ...]) -> bool:
    """Tells whether a DoRA's magnitudes are of the inputs, as in LyCORIS before 3.

    LyCORIS has [out, 1] or [out, 1, 1, 1], and [1, in] or [1, in, 1, 1] for inputs. peft's, under
    another name, are always of outputs, [out] or [1, out, 1, 1].
    """
    return key.endswith(".dora_scale") and len(shape) > 1 and math.prod(shape) > shape[0]


def write(
    path: str | os.PathLike[str],
    lora: LoRAFile,
    header: dict[str, str] | None = None,
    *,
    dtype: DTypeLike = np.float32,
    naming: Naming = DIFFUSERS_NAMING,
) -> None:
    """Writes a LoRA under kohya's names, which every user interface loads.

    All modules get one alpha, since diffusers applies the commonest to all attention layers: if
    they differ, alpha becomes the largest rank and `up` takes up the difference. So it does for
    an alpha of 0, which sd-scripts reads as the rank, and for a negative one, which is no scale
    to other readers.

    A DoRA's magnitudes are `dora_scale`, one for each output, as LyCORIS 3 writes them.

    Args:
      header: further entries of the header, such as `kohya_families.metadata` gives.
      dtype: of down and up; alpha stays float32.
      naming: the names that files of the model's family have.

    Raises:
      UserError: there is nothing to write, something is not finite or the file cannot be written.
    """
    adapters = flatten(lora)
    ranks = {adapter.rank for adapter in adapters.values()}
    alphas = {adapter.alpha for adapter in adapters.values()}
    alpha = alphas.pop() if len(alphas) == 1 else 0
    if not np.float32(alpha) > 0:  # as the file has it: 1e-50 is 0 there
        alpha = max(ranks)
    tensors = {}
    for layer, adapter in adapters.items():
        name = naming.name(layer)
        down, up = with_alpha(adapter, alpha, dtype)
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.lora_up.weight"] = up
        tensors[f"{name}.alpha"] = np.array(alpha, np.float32)
        if adapter.magnitude is not None:
            shape = (-1, *(1,) * (down.ndim - 1))
            tensors[f"{name}.dora_scale"] = adapter.magnitude.reshape(shape).astype(dtype)
    dora = any(adapter.magnitude is not None for adapter in adapters.values())
    network = {
        "ss_network_module": "lycoris.kohya" if dora else "networks.lora",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": str(float(alpha)),
        "ss_network_args": '{"algo": "lora", "dora_wd": "True"}' if dora else "{}",
    }
    check_finite(path, tensors)
    safetensors.write(path, tensors, network | (header or {}))
