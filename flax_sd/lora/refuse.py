"""LoRA files that cannot be used here, told apart so that the message says what they are."""

import re
from collections.abc import Iterable, Mapping

from flax_sd.errors import UserError
from flax_sd.lora.names import parse

# what gives a format away in a key -> its name
_FORMATS = {
    r"\.hada_\w+$": "LoHa (LyCORIS)",
    r"\.lokr_\w+$": "LoKr (LyCORIS)",
    r"\.(oft|boft)_\w+$": "OFT",
    r"\.lora_mid(\.weight)?$": "LoCon with CP decomposition (lora_mid)",
    r"^(unet|text_encoder):\d+:(up|down)$": "cloneofsimo's lora (layers by number)",
    r"\.(diff|diff_b|w_norm|b_norm|set_weight)$": "whole weight differences (.diff)",
    r"\.(on_input|a1\.weight|b1\.weight)$": "IA3 or GLoRA (LyCORIS)",
    r"\.lora_[AB](\.\w+)?\.bias$": "LoRA with biases",
    r"\.lora_embedding_[AB]": "LoRA of an embedding",
    r"^lora_unet_(input|middle|output)_block": "LoRA with the original (LDM) block names",
}
_READ = "kohya's, PEFT's and diffusers' LoRA files are read"
_UNET_FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
_CROSS_ATTENTION = re.compile(r".*attn2[._](processor\.)?to_[kv]")
_TEXT_LAYER = re.compile(r"(lora_te_|lora_te1_|text_encoder\.).*self_attn[._](q_proj|to_q)")


def refuse_format(where: str, keys: Iterable[str]) -> None:
    """Refuses what is not a LoRA file, or one of a kind that is not read here.

    Raises:
      UserError: with the name of the format.
    """
    keys = sorted(keys)
    for pattern, name in _FORMATS.items():
        found = [key for key in keys if re.search(pattern, key)]
        if found:
            raise UserError(f"{where}: {name} is not supported ({found[0]}); {_READ}")
    if not any(parse(key) for key in keys):
        some = ", ".join(keys[:3]) or "no tensors at all"
        raise UserError(f"{where} is not a LoRA file: it holds {some}; {_READ}")


def refuse_family(
    where: str, shapes: Mapping[str, tuple[int, ...]], cross_attention: int, text_width: int
) -> None:
    """Refuses a LoRA of another family of models, told by its cross-attention's width.

    Args:
      shapes: of the file's tensors.
      cross_attention: width of the text that the UNet attends to; 0 if there is no UNet.
      text_width: of the first text encoder; 0 if there is none.

    Raises:
      UserError: with what the LoRA is for and what the model is.
    """
    theirs = _input_width(shapes, _CROSS_ATTENTION)
    if cross_attention and theirs and theirs != cross_attention:
        raise UserError(
            f"{where} is a LoRA for {_family(theirs)}; this model is {_family(cross_attention)}"
        )
    theirs = _input_width(shapes, _TEXT_LAYER)
    if text_width and theirs and theirs != text_width:
        raise UserError(
            f"{where} is a LoRA for a text encoder {theirs} wide; this model's is {text_width} wide"
        )


def _family(width: int) -> str:
    detail = f"cross-attention {width} wide"
    return (
        f"{_UNET_FAMILIES[width]} ({detail})"
        if width in _UNET_FAMILIES
        else f"a model with {detail}"
    )


def _input_width(shapes: Mapping[str, tuple[int, ...]], pattern: re.Pattern[str]) -> int:
    """Inputs of the first layer whose name has that pattern; 0 if there is none."""
    for key, shape in shapes.items():
        name = parse(key)
        if name and name.part == "down" and len(shape) > 1 and pattern.fullmatch(name.module):
            return shape[1]
    return 0
