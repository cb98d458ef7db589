"""The kinds of models, their components, and how the families are told apart."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Family = Literal["sd1", "sd2", "sdxl"]


class ModelKind(NamedTuple):
    """The components of one kind of model.

    Attributes:
      name: diffusers' class, which model_index.json names.
      networks: the components with weights.
      tokenizers: the tokenizers of its text encoders, in order.
      same_parts: classes whose folders hold the same components, which diffusers loads as well.
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
    text_encoder: Mapping[str, object],
    unet: Mapping[str, object] | None = None,
    *,
    second_text_encoder: bool = False,
) -> Family:
    """Returns the family that raw config.json files describe, by a value only that family has.

    Args:
      text_encoder: config of the (first) text encoder; OpenCLIP's, which SD 2 uses, has exact GELU.
      unet: config of the UNet, if there is one.
      second_text_encoder: whether the folder has a text_encoder_2.
    """
    if second_text_encoder or (unet or {}).get("addition_embed_type") == "text_time":
        return "sdxl"
    return "sd2" if text_encoder.get("hidden_act") == "gelu" else "sd1"
