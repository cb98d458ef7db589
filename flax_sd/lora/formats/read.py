"""LoRA files of any format, read for a model."""

import hashlib
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.files.paths import named
from flax_sd.lora.adapter import Adapter, LoRAFile
from flax_sd.lora.formats.base_models import SDXL, family, foreign_model, text_widths
from flax_sd.lora.formats.contents import read_contents
from flax_sd.lora.formats.format import LayerRef
from flax_sd.lora.inject import misfits
from flax_sd.lora.layers import Layer
from flax_sd.lora.targets import Slot, slots
from flax_sd.weights.safetensors import TensorFile

_NAMES_IN_FOLDER = (
    "lora.safetensors",
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
)
_OTHERS = {  # what else such a folder may be
    "model_index.json": "is a whole model, and a LoRA is a change of one",
    "learned_embeds.safetensors": "holds new tokens (--embedding, add_embedding)",
}


def read(
    path: str | os.PathLike[str],
    modules: Mapping[str, nnx.Module] | None = None,
    *,
    bundled: bool = False,
) -> LoRAFile:
    """Reads a LoRA of kohya, PEFT or diffusers (new or old).

    Each module keeps its own rank and alpha; a 1x1 convolution's tensors and a linear's stand for
    one another, as the model's layer needs them.

    Args:
      path: the file, or a folder that holds it under one of its usual names.
      modules: component ("unet", "text_encoder", "text_encoder_2") -> network that it should fit;
        may be abstract. None takes the layers that a Stable Diffusion may have.
      bundled: whether the caller reads the embeddings that a file may hold beside the LoRA, which
        would be lost otherwise.

    Raises:
      UserError: it is no LoRA, of a format or a family that does not fit, or a key of it cannot be
        used; every such key is named.
    """
    table = {
        LayerRef(component, path): slot
        for component, module in (modules or {}).items()
        for path, slot in slots(module).items()
    }
    file = TensorFile(locate(path))
    where = f"LoRA {file.path}"
    _check_family(where, file, table)
    contents = read_contents(file, table)
    problems = [*contents.problems, *(f"no such layer: {key}" for key in contents.unknown)]
    if not bundled:
        problems += [
            f"an embedding beside the LoRA, of use in images alone: {key}"
            for key in contents.bundled
        ]
    lora: LoRAFile = {}
    for ref, layer in contents.layers.items():
        adapter, wrong = contents.adapter(ref)
        if modules is not None and not wrong:
            adapter, wrong = _fitted(adapter, layer.keys, table.get(ref))
        problems += wrong
        lora.setdefault(ref.component, {})[ref.path] = adapter
    if problems:
        what = "does not fit the model" if modules is not None else "cannot be used"
        raise UserError("\n  ".join([f"{where} {what}:", *sorted(problems)]))
    return lora


def locate(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the LoRA file: the path itself, or a file of a usual name in a folder.

    Raises:
      UserError: it is no path, a folder that has none, or a pickle.
    """
    path = named(path)
    if path.is_dir():
        found = [path / name for name in _NAMES_IN_FOLDER if (path / name).is_file()]
        if not found:
            what = [f": it {what}" for name, what in _OTHERS.items() if (path / name).is_file()]
            names = ", ".join(_NAMES_IN_FOLDER)
            raise UserError(f"{path} is a folder without {names}{''.join(what[:1])}")
        return found[0]
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise UserError(
            f"{path} is a pickle, which can run code when it is opened; convert it where it comes "
            f"from with safetensors.torch.save_file(torch.load({path.name!r}), 'lora.safetensors')"
        )
    return path


def _check_family(where: str, file: TensorFile, table: Mapping[LayerRef, Slot]) -> None:
    """Raises UserError for a LoRA of another family of models, by the widths of the text."""
    if not table:
        return
    cross, text = text_widths({ref: slot.base.in_features for ref, slot in table.items()})
    its_cross, its_text = text_widths(read_contents(file).inputs())
    this = f"this model is {family(cross)}" if cross else "this model is not"
    remedy = "name a LoRA of this family, or a model of that one"
    own = SDXL if any(ref.component == "text_encoder_2" for ref in table) else None
    if (cross or text) and (model := foreign_model(file)) not in (None, own):
        raise UserError(f"{where} is a LoRA for {model}; {this}: {remedy}")
    if cross and its_cross not in (0, cross):
        raise UserError(f"{where} is a LoRA for {family(its_cross)}; {this}: {remedy}")
    if text and its_text not in (0, text):
        raise UserError(
            f"{where} is a LoRA for a text encoder {its_text} wide; this model's is {text} wide"
        )


def _fitted(
    adapter: Adapter, keys: Mapping[str, str], slot: Slot | None
) -> tuple[Adapter, list[str]]:
    """Returns the update in the model's shapes, and why it does not fit."""
    if slot is None:
        return adapter, [f"no such layer: {key}" for key in keys.values()]
    down, up = (_shaped(array, slot.base) for array in (adapter.down, adapter.up))
    adapter = adapter._replace(down=down, up=up)
    return adapter, [f"{keys['down']}: {what}" for what in misfits(slot.base, adapter)]


def _shaped(array: np.ndarray, base: Layer) -> np.ndarray:
    """Returns [a, b] or [a, b, 1, 1], as the layer has it; a larger window is left to `misfits`."""
    is_conv = isinstance(base, nnx.Conv)
    if is_conv and array.ndim == 2:
        return array[:, :, None, None]
    if not is_conv and array.ndim == 4 and array.shape[2:] == (1, 1):
        return array[:, :, 0, 0]
    return array


def lora_hash(path: pathlib.Path) -> str:
    """Returns the hash of a LoRA in web UIs: SHA-256 of the file after its header, 12 digits.

    Args:
      path: the file, or a folder that holds it under one of its usual names.
    """
    digest = hashlib.sha256()
    with locate(path).open("rb") as stream:
        stream.seek(8 + int.from_bytes(stream.read(8), "little"))
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:12]
