"""Which models there are: what each kind consists of, and what tells the families apart."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Family = Literal["sd1", "sd2", "sdxl"]


class ModelKind(NamedTuple):
    """What a kind of model consists of.

    Attributes:
      name: diffusers' class of it, which the model's index names.
      networks: its components with weights.
      tokenizers: those of its text encoders, in order.
      same_parts: classes whose folders hold the same, so that diffusers loads them so too.
    """

    name: str
    networks: tuple[str, ...]
    tokenizers: tuple[str, ...] = ()
    same_parts: tuple[str, ...] = ()


STABLE_DIFFUSION = ModelKind(
    "StableDiffusionPipeline",
    ("unet", "vae", "text_encoder"),
    ("tokenizer",),
    ("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
)
DDPM = ModelKind("DDPMPipeline", ("unet",))


def family_of(
    text_encoder: Mapping[str, Any],
    unet: Mapping[str, Any] | None = None,
    *,
    second_text_encoder: bool = False,
) -> Family:
    """Decides the family from raw config.json files, by what only it has, never by width.

    Args:
      text_encoder: of the (first) text encoder; OpenCLIP's, and so SD 2's, has exact GELU.
      unet: of the UNet, if it is at hand.
      second_text_encoder: whether the folder has a text_encoder_2.
    """
    if second_text_encoder or (unet or {}).get("addition_embed_type") == "text_time":
        return "sdxl"
    return "sd2" if text_encoder.get("hidden_act") == "gelu" else "sd1"
