"""LoRA files of unsupported kinds, recognised so that the message can name them."""

import re
from collections.abc import Iterable

from flax_sd.errors import UserError
from flax_sd.lora.formats.base_models import foreign_model
from flax_sd.lora.formats.keys import split_key
from flax_sd.weights.safetensors import TensorFile
from flax_sd.weights.tensor_kinds import describe

# what gives a format away in a key -> its name
_UNREAD = {
    r"\.hada_\w+$": "LoHa (LyCORIS)",
    r"\.lokr_\w+$": "LoKr (LyCORIS)",
    r"\.(oft|boft)_\w+$": "OFT",
    r"\.lora_mid(\.weight)?$": "LoCon with CP decomposition (lora_mid)",
    r"^(unet|text_encoder):\d+:(up|down)$": "cloneofsimo's lora (layers by number)",
    r"\.(diff|diff_b|w_norm|b_norm|set_weight)$": "whole weight differences (.diff)",
    r"\.(on_input|a1\.weight|b1\.weight)$": "IA3 or GLoRA (LyCORIS)",
    r"\.lora_[AB](\.[^.]+)?\.bias$": "LoRA with biases",
    r"\.lora_embedding_[AB]": "LoRA of an embedding",
}
_READ = "kohya's, PEFT's and diffusers' LoRA files are read"


def unread_format(keys: Iterable[str]) -> tuple[str, str] | None:
    """Returns an unsupported kind of LoRA and a key that shows it; None if the kind is
    supported."""
    keys = sorted(keys)
    for pattern, name in _UNREAD.items():
        for key in keys:
            if re.search(pattern, key):
                return name, key
    return None


def refuse_format(file: TensorFile) -> None:
    """Raises UserError for a file that is not a LoRA, or one of an unsupported kind.

    Raises:
      UserError: with the name of the format.
    """
    keys = sorted(file)
    if found := unread_format(keys):
        model = foreign_model(keys)
        whose = f" for {model}" if model else ""
        raise UserError(f"{file.path}: {found[0]}{whose} is not supported ({found[1]}); {_READ}")
    if not any(split_key(key) for key in keys):
        if what := describe({key: file.shape(key) for key in file}):
            raise UserError(f"{file.path} is {what}, not a LoRA file; {_READ}")
        some = ", ".join(keys[:3]) or "no tensors at all"
        raise UserError(f"{file.path} is not a LoRA file: it holds {some}; {_READ}")
