"""The components of a single file: under which prefix each is, and the names of its tensors."""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from flax_sd.weights.ldm.changes import Change, packed, unpacked
from flax_sd.weights.ldm.renaming import Renaming
from flax_sd.weights.ldm.text_names import BARE_CLIP, CLIP, OPEN_CLIP
from flax_sd.weights.ldm.unet_names import Layout, unet_names
from flax_sd.weights.ldm.vae_names import DIFFUSERS_VAE, vae_names

Template = Literal["sd1", "sd2", "sdxl", "sdxl_refiner"]
TEMPLATES: dict[tuple[str, int], Template] = {  # by family and number of text encoders
    ("sd1", 1): "sd1",
    ("sd2", 1): "sd2",
    ("sdxl", 2): "sdxl",
    ("sdxl", 1): "sdxl_refiner",
}
Shapes = Mapping[str, tuple[int, ...]]
UNET = "model.diffusion_model."
VAE = "first_stage_model."
PREFIXES = (UNET, VAE, "cond_stage_model.", "conditioner.")  # of all components, as written
REFINER_WIDTH = 1280  # of OpenCLIP bigG, of the refiner and SDXL; SD 2.x has 1024
# Never read: constants, some under names that converters made, what only a whole CLIP needs, and
# its half for images.
_CLIP_SKIPPED = (
    r"text_model\.encoder\.text_model\.embeddings\.position_ids|logit_scale|"
    r"(vision_model|visual_projection|text_projection)\..+"
)
_OPEN_CLIP_SKIPPED = (
    r"attn_mask|logit_scale|"
    r"(transformer\.)?text_model\.encoder\.text_model\.embeddings\.position_ids|"
    r"text_model\.embeddings\.position_ids"
)
# SD 2.x reads the state after 23 of 24 blocks, and no projection: files hold an identity or ones.
_SD2_SKIPPED = (
    rf"{_OPEN_CLIP_SKIPPED}|text_projection(\.weight)*|"
    r"transformer\.resblocks\.(2[3-9]|[3-9]\d)\..+"
)
_VAE_SKIPPED = r"(loss|model_ema)\..+"


class Place(NamedTuple):
    """Where a component's tensor is in a single file.

    Attributes:
      name: the file's tensor.
      change: what is done to it.
    """

    name: str
    change: Change


class Part(NamedTuple):
    """A component inside of a single file.

    Attributes:
      component: its name in a diffusers folder.
      prefix: what its tensors' names begin with.
      renaming: the names after the prefix.
      skipped: a pattern of the names after the prefix that are never read.
    """

    component: str
    prefix: str
    renaming: Renaming
    skipped: str = ""

    def skips(self, name: str) -> bool:
        """Returns whether a tensor of this part is known, and never read."""
        return bool(re.fullmatch(self.skipped, name.removeprefix(self.prefix)))

    def places(self, name: str) -> dict[str, Place]:
        """Returns the component's tensors in a tensor of the file; none if the name is unknown."""
        found = {}
        for inner, change in unpacked(name.removeprefix(self.prefix)):
            if key := self.renaming.to_diffusers(inner):
                found[key] = Place(name, change)
        return found

    def place(self, key: str) -> Place | None:
        """Returns where a component's tensor is in the file; None if the key is unknown."""
        inner = self.renaming.to_ldm(key)
        if inner is None:
            return None
        name, change = packed(inner)
        return Place(self.prefix + name, change)


def parts_of(shapes: Shapes) -> list[Part]:
    """Returns the components that a file's tensors make up, by their names and widths."""
    found = [_unet(shapes), _vae(shapes), *_text_encoders(shapes)]
    return [part for part in found if part]


def _inside(names: Iterable[str], prefix: str) -> set[str]:
    return {name[len(prefix) :] for name in names if name.startswith(prefix)}


def _unet(shapes: Shapes) -> Part | None:
    for prefix in (UNET, ""):
        inside = _inside(shapes, prefix)
        if any(name.startswith("input_blocks.") for name in inside):
            return Part("unet", prefix, unet_names(Layout.of_ldm(inside)))
    return None


def _vae(shapes: Shapes) -> Part | None:
    for prefix in (VAE, "vae.", ""):
        inside = _inside(shapes, prefix)
        if "decoder.conv_in.weight" in inside:
            theirs = any(name.startswith("decoder.mid_block.") for name in inside)
            return Part("vae", prefix, DIFFUSERS_VAE if theirs else vae_names(inside), _VAE_SKIPPED)
    return None


def _text_encoders(shapes: Shapes) -> Iterable[Part]:
    for prefix in ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."):
        if f"{prefix}text_model.embeddings.token_embedding.weight" in shapes:
            yield Part("text_encoder", prefix, CLIP, _CLIP_SKIPPED)
        elif f"{prefix}embeddings.token_embedding.weight" in shapes:
            yield Part("text_encoder", prefix, BARE_CLIP, _CLIP_SKIPPED)
    for prefix in ("cond_stage_model.model.", "conditioner.embedders.0.model."):
        if width := shapes.get(f"{prefix}token_embedding.weight"):
            if width[-1:] == (REFINER_WIDTH,):
                yield Part("text_encoder_2", prefix, OPEN_CLIP, _OPEN_CLIP_SKIPPED)
            else:
                yield Part("text_encoder", prefix, OPEN_CLIP, _SD2_SKIPPED)
    prefix = "conditioner.embedders.1.model."
    if f"{prefix}token_embedding.weight" in shapes:
        yield Part("text_encoder_2", prefix, OPEN_CLIP, _OPEN_CLIP_SKIPPED)


def part_to_write(component: str, template: Template, keys: Iterable[str]) -> Part:
    """Returns the part that a component is in a new file, under the names that all programs read.

    Args:
      component: unet, vae, text_encoder or text_encoder_2.
      template: the kind of model.
      keys: the names of the component's tensors.
    """
    keys = set(keys)
    match component, template:
        case "unet", _:
            return Part("unet", UNET, unet_names(Layout.of_diffusers(keys)))
        case "vae", _:
            return Part("vae", VAE, vae_names(keys))
        case "text_encoder", "sd1":
            return Part(component, "cond_stage_model.transformer.", CLIP)
        case "text_encoder", "sd2":
            return Part(component, "cond_stage_model.model.", OPEN_CLIP)
        case "text_encoder", _:
            return Part(component, "conditioner.embedders.0.transformer.", CLIP)
    embedder = 0 if template == "sdxl_refiner" else 1
    return Part(component, f"conditioner.embedders.{embedder}.model.", OPEN_CLIP)
