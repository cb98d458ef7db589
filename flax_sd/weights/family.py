"""The kinds of models, their components, and how the families are told apart."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from flax_sd.models.text_encoders import TextRule

Family = Literal["sd1", "sd2", "sdxl"]


class ModelKind(NamedTuple):
    """The components of one kind of model.

    Attributes:
      name: diffusers' class, which model_index.json names.
      networks: the components with weights, the text encoders in the order of their states.
      tokenizers: the tokenizers of its text encoders, in the same order.
      same_parts: classes whose folders hold the same components, which diffusers loads as well.
      text_rule: which states of the text encoders the UNet reads.
      versions: which are meant, for messages.
      unwritten: entries of the index for parts that are not read and not written.
    """

    name: str
    networks: tuple[str, ...]
    tokenizers: tuple[str, ...] = ()
    same_parts: tuple[str, ...] = ()
    text_rule: TextRule = TextRule()
    versions: str = ""
    unwritten: Mapping[str, object] = MappingProxyType({})

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of diffusers' classes that have these components."""
        return (self.name, *self.same_parts)

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The components that encode text."""
        return tuple(name for name in self.networks if name.startswith("text_encoder"))

    @property
    def adapted(self) -> tuple[str, ...]:
        """The components that LoRAs are for."""
        return ("unet", *self.text_encoders)

    def without(self, absent: Collection[str]) -> "ModelKind":
        """Returns the kind of a model that lacks some components, as SDXL's refiner does."""
        networks, tokenizers = (
            tuple(name for name in names if name not in absent)
            for names in (self.networks, self.tokenizers)
        )
        return self._replace(networks=networks, tokenizers=tokenizers)


STABLE_DIFFUSION = ModelKind(
    "StableDiffusionPipeline",
    ("unet", "vae", "text_encoder"),
    ("tokenizer",),
    ("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
    versions=" (1.x or 2.x)",
    unwritten=MappingProxyType(
        {
            **dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"), [None, None]),
            "requires_safety_checker": False,
        }
    ),
)
STABLE_DIFFUSION_XL = ModelKind(
    "StableDiffusionXLPipeline",
    ("unet", "vae", "text_encoder", "text_encoder_2"),
    ("tokenizer", "tokenizer_2"),
    ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
    TextRule(skip=1, normed=False, pooled=True),
    unwritten=MappingProxyType(dict.fromkeys(("feature_extractor", "image_encoder"), [None, None])),
)
# Of the public models' VAEs, whose tensors have the same shapes in all families.
VAE_SCALES: dict[Family, float] = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
DDPM = ModelKind("DDPMPipeline", ("unet",))
KINDS = (STABLE_DIFFUSION, STABLE_DIFFUSION_XL, DDPM)
PROMPTED = (STABLE_DIFFUSION, STABLE_DIFFUSION_XL)


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
