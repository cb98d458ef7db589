"""Which Stable Diffusion a checkpoint is: decided by what only that family has, never by width."""

from collections.abc import Mapping
from typing import Any, Literal

Family = Literal["sd1", "sd2", "sdxl"]


def family_of(
    text_encoder: Mapping[str, Any],
    unet: Mapping[str, Any] | None = None,
    *,
    second_text_encoder: bool = False,
) -> Family:
    """The family, from raw config.json files.

    Args:
      text_encoder: of the (first) text encoder; OpenCLIP's, and so SD 2's, has exact GELU.
      unet: of the UNet, if it is at hand.
      second_text_encoder: whether the folder has a text_encoder_2.
    """
    if second_text_encoder or (unet or {}).get("addition_embed_type") == "text_time":
        return "sdxl"
    return "sd2" if text_encoder.get("hidden_act") == "gelu" else "sd1"
