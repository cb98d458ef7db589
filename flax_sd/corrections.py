"""What diffusers' StableDiffusionPipeline corrects in old configs before it draws.

A picture equals diffusers' only with the same corrections; files are written as they were read.
"""

import re
from collections.abc import Mapping
from typing import Any

from flax_sd.scheduler_config import explicit_fields

# pipeline_stable_diffusion.py, `__init__`: Stable Diffusion is drawn with these, whatever is set.
_SCHEDULER = {"steps_offset": 1, "clip_sample": False}


def scheduler_in_use(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint's scheduler config as its own class is used."""
    defaults = [name for name in raw.get("_use_default_values", ()) if name not in _SCHEDULER]
    return {**raw, **_SCHEDULER, "_use_default_values": defaults}


def scheduler_to_convert(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The config of which diffusers makes another class: a field that was never set stays unset."""
    explicit = explicit_fields(raw)
    return {**raw, **{name: value for name, value in _SCHEDULER.items() if name in explicit}}


def sample_size(unet: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the latents that the UNet was trained on, from its raw config."""
    size = unet.get("sample_size") or 64
    if not isinstance(size, int):
        return size[0], size[1]
    version = re.match(r"0\.(\d+)", unet.get("_diffusers_version", ""))
    is_old = version is not None and int(version[1]) < 9  # whose default was 32
    size = max(size, 64) if is_old else size
    return size, size
