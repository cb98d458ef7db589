"""The dtype of a command's arithmetic."""

import re
from typing import Any

import jax

AMPERE = 8.0  # compute capability of NVIDIA's first GPUs with bfloat16


def resolve_dtype(name: str) -> str:
    """Returns the dtype of that name; for "auto" the one that suits the devices.

    float32 on a CPU, float16 on a GPU without bfloat16 (T4, V100), bfloat16 elsewhere.
    """
    if name != "auto":
        return name
    device = jax.devices()[0]
    if device.platform == "cpu":
        return "float32"
    capability = compute_capability(device)
    old = capability is not None and capability < AMPERE  # all of AMD's GPUs have bfloat16
    return "float16" if old else "bfloat16"


def scales_loss(name: str) -> bool:
    """Tells whether training in that dtype scales the loss, as float16 needs."""
    return resolve_dtype(name) == "float16"


def compute_capability(device: Any) -> float | None:
    """Returns NVIDIA's compute capability, such as 8.0; None for other devices.

    AMD's GPUs name their architecture in its place (gfx90a), CPUs and TPUs have nothing.
    """
    found = str(getattr(device, "compute_capability", ""))
    return float(found) if re.fullmatch(r"\d+(\.\d+)?", found) else None
