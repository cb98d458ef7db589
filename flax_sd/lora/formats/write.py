"""LoRA files written: equal adapters give equal bytes."""

import os

import numpy as np
from numpy.typing import DTypeLike

from flax_sd.errors import UserError
from flax_sd.lora.adapter import Adapter, LoRAFile
from flax_sd.lora.formats.keys import kohya_name
from flax_sd.weights import safetensors
from flax_sd.weights.fill import check_finite

_BASE_VERSIONS = {
    # (family, v-prediction) -> (ss_base_model_version, modelspec.architecture)
    ("sd1", False): ("sd_v1", "stable-diffusion-v1/lora"),
    ("sd1", True): ("sd_v1_v", "stable-diffusion-v1/lora"),
    ("sd2", False): ("sd_v2", "stable-diffusion-v2-512/lora"),
    ("sd2", True): ("sd_v2_v", "stable-diffusion-v2-768-v/lora"),
}


def kohya_metadata(family: str, prediction_type: str) -> dict[str, str]:
    """The header entries by which user interfaces sort LoRA files by their base model.

    Args:
      family: "sd1" or "sd2".
      prediction_type: of the scheduler config; "v_prediction" is told apart.
    """
    v_prediction = prediction_type == "v_prediction"
    version, architecture = _BASE_VERSIONS[family, v_prediction]
    return {
        "ss_base_model_version": version,
        "ss_v2": str(family == "sd2"),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": "diffusers",
        "modelspec.prediction_type": "v" if v_prediction else "epsilon",
    }


def write_kohya(
    path: str | os.PathLike[str],
    lora: LoRAFile,
    metadata: dict[str, str] | None = None,
    *,
    dtype: DTypeLike = np.float32,
) -> None:
    """Writes a LoRA under kohya's names, which every user interface loads.

    All modules get one alpha, since diffusers applies the commonest to all attention layers: if
    they differ, alpha becomes the largest rank and `up` takes up the difference. So it does for
    an alpha of 0, which sd-scripts reads as the rank, and for a negative one, which is no scale
    to other readers.

    A DoRA's magnitudes are `dora_scale`, one for each output, as LyCORIS 3 writes them.

    Args:
      metadata: further header entries, such as `kohya_metadata` gives.
      dtype: of down and up; alpha stays float32.

    Raises:
      UserError: there is nothing to write, something is not finite or the file cannot be written.
    """
    adapters = _flatten(lora)
    ranks = {adapter.rank for adapter in adapters.values()}
    alphas = {adapter.alpha for adapter in adapters.values()}
    alpha = alphas.pop() if len(alphas) == 1 else 0
    if not np.float32(alpha) > 0:  # as the file has it: 1e-50 is 0 there
        alpha = max(ranks)
    tensors = {}
    for (component, module), adapter in adapters.items():
        name = kohya_name(component, module)
        down, up = _with_alpha(adapter, alpha, dtype)
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
    safetensors.write(path, tensors, network | (metadata or {}))


def write_peft(
    path: str | os.PathLike[str],
    lora: LoRAFile,
    metadata: dict[str, str] | None = None,
    *,
    dtype: DTypeLike = np.float32,
) -> None:
    """Writes a LoRA as diffusers and PEFT name it: `unet.….lora_A.weight`, `….lora_B.weight`.

    The format has no alpha, so alpha / rank is multiplied into `lora_B`. A DoRA's magnitudes are
    `lora_magnitude_vector`.

    Args:
      metadata: further header entries.
      dtype: of all tensors.

    Raises:
      UserError: there is nothing to write, something is not finite or the file cannot be written.
    """
    tensors = {}
    for (component, module), adapter in _flatten(lora).items():
        down, up = _with_alpha(adapter, adapter.rank, dtype)
        tensors[f"{component}.{module}.lora_A.weight"] = down
        tensors[f"{component}.{module}.lora_B.weight"] = up
        if adapter.magnitude is not None:
            shape = (1, -1, 1, 1) if down.ndim == 4 else (-1,)
            # transformers 5 loads text encoders' under this name alone, peft under both.
            end = ".weight" if component.startswith("text_encoder") else ""
            key = f"{component}.{module}.lora_magnitude_vector{end}"
            tensors[key] = adapter.magnitude.reshape(shape).astype(dtype)
    check_finite(path, tensors)
    safetensors.write(path, tensors, {"format": "pt"} | (metadata or {}))


def _flatten(lora: LoRAFile) -> dict[tuple[str, str], Adapter]:
    adapters = {(c, path): adapter for c, own in lora.items() for path, adapter in own.items()}
    if not adapters:
        raise UserError("there is no LoRA to write: no layer has one")
    return adapters


def _with_alpha(
    adapter: Adapter, alpha: float | int, dtype: DTypeLike
) -> tuple[np.ndarray, np.ndarray]:
    """down and up for that alpha, with the same product as before."""
    up = np.asarray(adapter.with_alpha(alpha).up, np.float32)
    with np.errstate(over="ignore"):  # check_finite names what a narrow dtype cannot hold
        return np.asarray(adapter.down).astype(dtype), up.astype(dtype)
