"""The corrections that diffusers' StableDiffusionPipeline makes in old configs.

Images equal diffusers' only with the same corrections; files are written as they were read.
"""

import re
from collections.abc import Mapping
from typing import Any

from flax_sd.diffusion.scheduler_config import explicit_fields
from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject, never_set

_LARGEST = 2**16  # latents


def scheduler_in_use(raw: Mapping[str, object]) -> JsonObject:
    """Returns the checkpoint's scheduler config for its own class."""
    corrected = _corrected(raw)
    defaults = [name for name in never_set(raw) if name not in corrected]
    return {**raw, **corrected, "_use_default_values": defaults}


def scheduler_to_convert(raw: Mapping[str, object]) -> JsonObject:
    """Returns the config for another class: a field that was never set stays unset."""
    explicit = explicit_fields(raw)
    return {**raw, **{name: value for name, value in _corrected(raw).items() if name in explicit}}


def _corrected(raw: Mapping[str, object]) -> JsonObject:
    """Returns what `__init__` of pipeline_stable_diffusion.py sets: offset 1, and no clipping.

    It corrects only true itself: other values that Python takes for true, as [true], clip.
    """
    clips = explicit_fields(raw).get("clip_sample", True)
    return {"steps_offset": 1, **({"clip_sample": False} if clips is True else {})}


def sample_size(unet: Mapping[str, object]) -> tuple[int, int]:
    """Returns height and width of the latents that the UNet was trained on, from its raw config.

    Raises:
      UserError: the config has no valid size.
    """
    size: Any = unet.get("sample_size") or 64
    sides = list(size) if isinstance(size, list | tuple) else [size]
    if not all(type(side) is int and 0 < side <= _LARGEST for side in sides):
        raise UserError(f"sample_size of the UNet is {size!r}: should be a whole number, or two")
    if sides != [size]:
        return sides[0], sides[-1]
    version = re.match(r"0\.(\d{1,4})", str(unet.get("_diffusers_version")))
    is_old = version is not None and int(version[1]) < 9  # whose default was 32
    size = max(size, 64) if is_old else size
    return size, size
