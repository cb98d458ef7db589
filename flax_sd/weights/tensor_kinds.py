"""Recognizes a file by the names and shapes of its tensors: a checkpoint, or a part of one."""

import re
from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]
FAMILIES = {  # width of the text that the UNet attends to
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    1280: "SDXL refiner",
    2048: "SDXL",
}
_TEXT = {
    768: "CLIP-L, of Stable Diffusion 1.x and SDXL",
    1024: "OpenCLIP-H, of 2.x",
    1280: "of SDXL",
}
_CROSS = re.compile(r".*attn2\.to_k\.weight")
_INSIDE = "model.diffusion_model."
_PARTS = {  # beginning of a tensor's name -> description; the first match counts
    r"(.*\.)?(double_blocks|single_blocks|single_transformer_blocks)\.": "a Flux {whole}",
    r"(.*\.)?joint_blocks\.": "a Stable Diffusion 3 {whole}",
    r"(control_model\.|controlnet_|input_hint_block\.)": "a ControlNet",
    r"(.*\.)?motion_modules\.": "a motion module of AnimateDiff",
    r"(image_proj|ip_adapter)\.": "an IP-Adapter",
    rf"{re.escape(_INSIDE)}": "a {family} {whole}",
    r"(input_blocks|middle_block|output_blocks)\.": "a UNet under its original names, {family}",
    r"time_embedding\.linear_1\.": "a UNet, {family}",
    r"(first_stage_model\.)?(encoder|decoder)\.(conv_in|mid|mid_block|down|up)\b": "a VAE",
    r"(encoder|decoder)\.layers\.\d+\.conv\.": "a tiny VAE (TAESD)",
    r"(.*\.)?(text_model\.)?embeddings\.token_embedding\.weight": "a text encoder{text}",
    r"cond_stage_model\.": "a text encoder{text}",
    r"clip_[lg]$": "an embedding for SDXL",
}
_WHOLE = "checkpoint in one file"


def describe(shapes: Shapes) -> str:
    """Returns a description with its article, such as "a VAE"; empty if nothing is recognized."""
    for pattern, what in _PARTS.items():
        if any(re.match(pattern, key) for key in shapes):
            what = what.format(whole=_WHOLE, family=_family(shapes), text=_text(shapes))
            return what.replace("a SDXL", "an SDXL")
    return ""


def _family(shapes: Shapes) -> str:
    """Returns the family of a UNet, by the width of its text and its input channels."""
    width = next((shape[-1] for key, shape in shapes.items() if shape and _CROSS.match(key)), 0)
    name = FAMILIES.get(width, "Stable Diffusion")
    for first in (f"{_INSIDE}input_blocks.0.0.weight", "input_blocks.0.0.weight", "conv_in.weight"):
        if shapes.get(first, ())[1:2] == (9,):
            return f"{name} inpainting"
    return name


def _text(shapes: Shapes) -> str:
    tables = [s for key, s in shapes.items() if key.endswith("token_embedding.weight") and s]
    return f" ({_TEXT[tables[0][-1]]})" if tables and tables[0][-1] in _TEXT else ""
