"""The models that LoRA files are for, told by the names and the width of their layers."""

import re
from collections.abc import Collection, Iterable, Mapping

from flax_sd.lora.formats.format import LayerRef
from flax_sd.lora.formats.ldm_names import is_original
from flax_sd.weights.family import Family
from flax_sd.weights.tensor_kinds import FAMILIES

SDXL = "SDXL"
_DEEPER = r"[._]transformer_blocks[._][1-9]"  # Stable Diffusion 1.x and 2.x have one at a place
_ATTENDING = r"[._]1[._](proj_in|proj_out|transformer_blocks)"
_PATTERNS = {  # what a key holds -> the model, the first that is found
    r"(double_blocks|single_blocks|single_transformer_blocks)[._]\d": "Flux",
    r"joint_blocks[._]\d": "Stable Diffusion 3",
    r"^(lora_)?transformer[._]transformer_blocks[._]\d": "Stable Diffusion 3",
    r"^(diffusion_model|transformer)\.(blocks|layers|transformer_blocks)\.\d": "a video or image "
    "transformer",
    r"^(lora_te2_|text_encoder_2\.|text_encoders\.clip_g\.)": SDXL,
    r"(add_embedding|label_emb)[._]": SDXL,
    rf"attentions[._]\d{_DEEPER}": SDXL,
    rf"(input_blocks[._]\d|output_blocks[._]\d|middle_block)[._]1{_DEEPER}": SDXL,
    rf"output_blocks[._][012]{_ATTENDING}": SDXL,  # where 1.x and 2.x do not attend
}
_CROSS: Mapping[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}  # width of its attention
_SD2_TEXT = 1024  # width of its text encoder
_VERSIONS: Mapping[str, Family] = {"sd_v1": "sd1", "sd_v2": "sd2", "sdxl_": "sdxl"}  # in a header


def foreign_model(keys: Iterable[str]) -> str | None:
    """Names the model that a file's keys show, if it is neither Stable Diffusion 1.x nor 2.x."""
    keys = list(keys)
    for pattern, model in _PATTERNS.items():
        if any(re.search(pattern, key) for key in keys):
            return model
    return None


def text_widths(inputs: Mapping[LayerRef, int]) -> tuple[int, int]:
    """Returns the text widths of a UNet's cross-attention and of the text encoder; 0 if unknown.

    Args:
      inputs: the number of inputs of each layer.
    """

    def first(pattern: str) -> int:
        return next((n for ref, n in inputs.items() if re.fullmatch(pattern, ".".join(ref))), 0)

    return first(r"unet\..*attn2\.to_[kv]"), first(r"text_encoder\..*self_attn\.q_proj")


def told_family(
    keys: Collection[str], inputs: Mapping[LayerRef, int], header: Mapping[str, str]
) -> Family | None:
    """Returns the family of a file's model; None if nothing tells it.

    Args:
      keys: of the file.
      inputs: the number of inputs of each layer.
      header: its metadata, which count least: many files have none or another's.
    """
    if model := foreign_model(keys):
        return "sdxl" if model == SDXL else None
    cross, text = text_widths(inputs)
    if found := _CROSS.get(cross) or ("sd2" if text == _SD2_TEXT else None):
        return found
    version = header.get("ss_base_model_version", "")
    for start, told in _VERSIONS.items():
        if version.startswith(start):
            return told
    return "sdxl" if any(map(is_original, keys)) else None  # as sd-scripts writes SDXL's alone


def family(width: int) -> str:
    """Names the models whose cross-attention has that width."""
    detail = f"cross-attention {width} wide"
    return f"{FAMILIES[width]} ({detail})" if width in FAMILIES else f"a model with {detail}"
