"""LoRA files that cannot be used here, told apart so that the message says what they are."""

import re
from collections.abc import Iterable, Mapping

from flax_sd.errors import UserError
from flax_sd.lora.formats.base_models import foreign_model
from flax_sd.lora.formats.keys import parse
from flax_sd.weights.tensor_kinds import describe

# what gives a format away in a key -> its name
_FORMATS = {
    r"\.hada_\w+$": "LoHa (LyCORIS)",
    r"\.lokr_\w+$": "LoKr (LyCORIS)",
    r"\.(oft|boft)_\w+$": "OFT",
    r"\.lora_mid(\.weight)?$": "LoCon with CP decomposition (lora_mid)",
    r"^(unet|text_encoder):\d+:(up|down)$": "cloneofsimo's lora (layers by number)",
    r"\.(diff|diff_b|w_norm|b_norm|set_weight)$": "whole weight differences (.diff)",
    r"\.(on_input|a1\.weight|b1\.weight)$": "IA3 or GLoRA (LyCORIS)",
    r"\.lora_[AB](\.[^.]+)?\.bias$": "LoRA with biases",
    r"\.lora_embedding_[AB]": "LoRA of an embedding",
    r"^lora_unet_(input|middle|output)_block": "LoRA with the original (LDM) block names",
}
_READ = "kohya's, PEFT's and diffusers' LoRA files are read"
FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
_CROSS_ATTENTION = re.compile(r".*attn2[._](processor\.)?to_[kv]")
_TEXT_LAYER = re.compile(r"(lora_te_|lora_te1_|text_encoder\.).*self_attn[._](q_proj|to_q)")


def unread_format(keys: Iterable[str]) -> tuple[str, str] | None:
    """The kind of a LoRA that is not read here, and a key that tells; None if it is of none."""
    keys = sorted(keys)
    for pattern, name in _FORMATS.items():
        for key in keys:
            if re.search(pattern, key):
                return name, key
    return None


def refuse_format(where: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses what is not a LoRA file, or one of a kind that is not read here.

    Args:
      shapes: of the file's tensors.

    Raises:
      UserError: with the name of the format.
    """
    keys = sorted(shapes)
    if found := unread_format(keys):
        model = foreign_model(shapes)
        whose = f" for {model}" if model else ""
        raise UserError(f"{where}: {found[0]}{whose} is not supported ({found[1]}); {_READ}")
    if not any(parse(key) for key in keys):
        if what := describe(shapes):
            raise UserError(f"{where} is {what}, where a LoRA file is wanted; {_READ}")
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
    theirs, text = widths(shapes)
    if (cross_attention or text_width) and (model := foreign_model(shapes)):
        this = (
            f"this model is {family(cross_attention)}" if cross_attention else "this model is not"
        )
        raise UserError(f"{where} is a LoRA for {model}; {this}")
    if cross_attention and theirs and theirs != cross_attention:
        raise UserError(
            f"{where} is a LoRA for {family(theirs)}; this model is {family(cross_attention)}"
        )
    if text_width and text and text != text_width:
        raise UserError(
            f"{where} is a LoRA for a text encoder {text} wide; this model's is {text_width} wide"
        )


def widths(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """Width of the text that a LoRA's UNet attends to, and of its text encoder; 0 if not told.

    Args:
      shapes: of the file's tensors.
    """
    return _input_width(shapes, _CROSS_ATTENTION), _input_width(shapes, _TEXT_LAYER)


def family(width: int) -> str:
    """The models whose cross-attention is that wide, in words."""
    detail = f"cross-attention {width} wide"
    return f"{FAMILIES[width]} ({detail})" if width in FAMILIES else f"a model with {detail}"


def _input_width(shapes: Mapping[str, tuple[int, ...]], pattern: re.Pattern[str]) -> int:
    """Inputs of the first layer whose name has that pattern; 0 if there is none."""
    for key, shape in shapes.items():
        name = parse(key)
        if name and name.part == "down" and len(shape) > 1 and pattern.fullmatch(name.module):
            return shape[1]
    return 0
