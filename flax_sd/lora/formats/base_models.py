"""The models that LoRA files are for, told by the names and the width of their layers."""

import re
from collections.abc import Iterable, Mapping

from flax_sd.lora.formats.format import LayerRef

_DEEPER = r"[._]transformer_blocks[._][1-9]"  # Stable Diffusion 1.x and 2.x have one at a place
_ATTENDING = r"[._]1[._](proj_in|proj_out|transformer_blocks)"
_PATTERNS = {  # what a key holds -> the model, the first that is found
    r"(double_blocks|single_blocks|single_transformer_blocks)[._]\d": "Flux",
    r"joint_blocks[._]\d": "Stable Diffusion 3",
    r"^(lora_)?transformer[._]transformer_blocks[._]\d": "Stable Diffusion 3",
    r"^(diffusion_model|transformer)\.(blocks|layers|transformer_blocks)\.\d": "a video or image "
    "transformer",
    r"^(lora_te2_|text_encoder_2\.)": "SDXL",
    r"(add_embedding|label_emb)[._]": "SDXL",
    rf"attentions[._]\d{_DEEPER}": "SDXL",
    rf"(input_blocks[._]\d|output_blocks[._]\d|middle_block)[._]1{_DEEPER}": "SDXL",
    rf"output_blocks[._][012]{_ATTENDING}": "SDXL",  # where 1.x and 2.x do not attend
}
FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}


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


def family(width: int) -> str:
    """Names the models whose cross-attention has that width."""
    detail = f"cross-attention {width} wide"
    return f"{FAMILIES[width]} ({detail})" if width in FAMILIES else f"a model with {detail}"
