"""The alpha of PEFT's files, which stands in their header or in a JSON file beside them."""

import json
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping

from flax_sd.errors import UserError
from flax_sd.lora.formats.keys import Place

_HEADER_KEY = "lora_adapter_metadata"
_CONFIG_NAME = "adapter_config.json"
AlphaRule = Callable[[Place, int], float]  # (layer, rank) -> alpha


def is_raw_peft(keys: Iterable[str]) -> bool:
    """Whether peft saved the file, so that its `adapter_config.json` lies beside it."""
    return any(key.startswith("base_model.model.") for key in keys)


def alpha_rule(path: pathlib.Path, metadata: Mapping[str, str], raw_peft: bool) -> AlphaRule:
    """How to find the alpha of a layer whose file has no tensor for it; the rank if nothing says.

    Args:
      path: the LoRA file.
      metadata: of its header; diffusers puts PEFT's config there, keys prefixed by component.
      raw_peft: peft saved it.

    Raises:
      UserError: the config is not readable, or asks for more than a plain LoRA.
    """
    where, config = _config(path, metadata, raw_peft)
    if config is None:
        return lambda place, rank: float(rank)
    return lambda place, rank: _alpha(_of_component(config, place.component), place, rank, where)


def is_rank_stabilised(path: pathlib.Path, metadata: Mapping[str, str], raw_peft: bool) -> bool:
    """Whether PEFT's config says that the scale is alpha / √rank; args as of `alpha_rule`."""
    config = _config(path, metadata, raw_peft)[1] or {}
    return any(value for key, value in config.items() if key.endswith("use_rslora"))


def has_config(path: pathlib.Path, metadata: Mapping[str, str], raw_peft: bool) -> bool:
    """Whether the file comes with a config of PEFT's; args as of `alpha_rule`."""
    return _config(path, metadata, raw_peft)[1] is not None


def _config(
    path: pathlib.Path, metadata: Mapping[str, str], raw_peft: bool
) -> tuple[str, dict | None]:
    """PEFT's config and where it stands; None if the file has none."""
    beside = path.with_name(_CONFIG_NAME)
    if _HEADER_KEY in metadata:
        where, text = f"{path}: {_HEADER_KEY} in the header", metadata[_HEADER_KEY]
    elif raw_peft and beside.is_file():
        where, text = str(beside), beside.read_bytes()
    elif raw_peft:
        raise UserError(
            f"{path} is as peft saves it, and its scale stands in {_CONFIG_NAME}: "
            f"put that file beside it"
        )
    else:
        return str(path), None
    try:
        config = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{where} is not a JSON object")
    return where, config


def _of_component(config: dict, component: str) -> dict:
    """The entries for that network: with its prefix stripped, or all if none has a prefix."""
    prefix = f"{component}."
    own = {key.removeprefix(prefix): v for key, v in config.items() if key.startswith(prefix)}
    prefixed = any(key.startswith(("unet.", "text_encoder")) for key in config)
    return own if prefixed else config


def _alpha(config: dict, place: Place, rank: int, where: str) -> float:
    """alpha so that alpha / rank is PEFT's scaling (peft 0.21.2, tuners/lora/layer.py)."""
    for option in ("lora_bias", "fan_in_fan_out"):
        if config.get(option):
            raise UserError(f"{where}: {option} is not supported, only LoRA and DoRA are")
    alpha = config.get("lora_alpha", rank)
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", place.path)
        except re.error as error:
            raise UserError(f"{where}: alpha_pattern {pattern!r}: {error}") from error
        if found:
            alpha = own
            break
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise UserError(f"{where}: the alpha of {place.path} is {alpha!r}, not a number")
    return float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1)
