"""LoRA files read: kohya's, PEFT's and diffusers', new and old."""

import hashlib
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.files.paths import named
from flax_sd.lora.adapter import Adapter, LoRAFile
from flax_sd.lora.formats.keys import Place, by_layer, table
from flax_sd.lora.formats.peft_config import AlphaRule, alpha_rule, is_raw_peft
from flax_sd.lora.formats.unsupported import refuse_family, refuse_format
from flax_sd.lora.inject import misfits
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


def read(path: str | os.PathLike[str], modules: Mapping[str, nnx.Module]) -> LoRAFile:
    """Reads a LoRA of kohya, PEFT or diffusers (new or old) for the given networks.

    Each module keeps its own rank and alpha; a 1x1 convolution's tensors and a linear's stand for
    one another, as the model's layer needs them.

    Args:
      path: the file, or a folder that holds it under one of its usual names.
      modules: component ("unet", "text_encoder", "text_encoder_2") -> network; may be abstract.

    Raises:
      UserError: it is no LoRA, of a format or a family that does not fit, or a key of it cannot be
        used; every such key is named.
    """
    file = TensorFile(locate(path))
    where = f"LoRA {file.path}"
    layers = {component: slots(module) for component, module in modules.items()}
    shapes = {key: file.shape(key) for key in file}
    refuse_family(where, shapes, *_widths(layers))
    refuse_format(where, shapes)

    groups, unknown, problems = by_layer(file, table(layers))
    problems += [f"no such layer: {key}" for key in unknown]
    rule = alpha_rule(file.path, file.metadata, is_raw_peft(file))
    lora: LoRAFile = {}
    for place, parts in groups.items():
        slot = layers[place.component][place.path]
        adapter, wrong = _adapter(file, place, parts, slot, rule)
        problems += wrong
        if adapter:
            lora.setdefault(place.component, {})[place.path] = adapter
    if problems:
        raise UserError("\n  ".join([f"{where} does not fit the model:", *sorted(problems)]))
    return lora


def locate(path: str | os.PathLike[str]) -> pathlib.Path:
    """The file: the path, or the one of a usual name in a folder.

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


def _widths(layers: Mapping[str, Mapping[str, Slot]]) -> tuple[int, int]:
    """Width of the text that the UNet attends to, and of the first text encoder; 0 if absent."""

    def inputs(component: str, end: str) -> int:
        found = (s.base for path, s in layers.get(component, {}).items() if path.endswith(end))
        return next((base.kernel.shape[-2] for base in found), 0)

    return inputs("unet", "attn2.to_k"), inputs("text_encoder", "self_attn.q_proj")


def _adapter(
    file: TensorFile, place: Place, parts: dict[str, str], slot: Slot, rule: AlphaRule
) -> tuple[Adapter | None, list[str]]:
    """One layer's update, or what is wrong with it."""
    missing = {"down", "up"} - parts.keys()
    if missing:
        return None, [f"no {' or '.join(sorted(missing))} beside {min(parts.values())}"]
    tensors = {part: np.asarray(file[key], np.float32) for part, key in parts.items()}
    problems = [f"NaN or infinite: {parts[p]}" for p, t in tensors.items() if not _finite(t)]
    if "alpha" in tensors and tensors["alpha"].size != 1:
        problems.append(f"{parts['alpha']} is {list(tensors['alpha'].shape)}, not one number")
    rank = next(iter(tensors["down"].shape), 0)
    if problems or not rank:
        return None, problems or [f"rank 0: {parts['down']}"]
    alpha = tensors["alpha"].item() if "alpha" in tensors else rule(place, rank)
    is_conv = isinstance(slot.base, nnx.Conv)
    down, up = (_as_layer(tensors[part], is_conv) for part in ("down", "up"))
    magnitude = None
    if "magnitude" in tensors:
        magnitude = _of_outputs(tensors["magnitude"], parts["magnitude"])
        if magnitude is None:
            return None, [f"{parts['magnitude']} has a magnitude for each input, not each output"]
    adapter = Adapter(down, up, alpha, magnitude)
    wrong = misfits(slot.base, adapter)
    return (None if wrong else adapter), [f"{parts['down']}: {what}" for what in wrong]


def _finite(array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all())


def _of_outputs(array: np.ndarray, key: str) -> np.ndarray | None:
    """A DoRA's magnitudes [out]; None where they are of inputs, as in LyCORIS before 3.

    peft's are always of outputs, [out] or [1, out, 1, 1]; LyCORIS has [out, 1] or [out, 1, 1, 1],
    and [1, in] or [1, in, 1, 1] for inputs.
    """
    inputs = key.endswith(".dora_scale") and array.ndim > 1 and array.size > len(array)
    return None if inputs else array.reshape(-1)


def _as_layer(array: np.ndarray, is_conv: bool) -> np.ndarray:
    """[a, b] or [a, b, 1, 1], as the layer has it; a larger window is left to `misfits`."""
    if is_conv and array.ndim == 2:
        return array[:, :, None, None]
    if not is_conv and array.ndim == 4 and array.shape[2:] == (1, 1):
        return array[:, :, 0, 0]
    return array


def lora_hash(path: pathlib.Path) -> str:
    """What web UIs know a LoRA by: SHA-256 of what follows the file's header, 12 digits.

    Args:
      path: the file, or a folder that holds it under one of its usual names.
    """
    digest = hashlib.sha256()
    with locate(path).open("rb") as stream:
        stream.seek(8 + int.from_bytes(stream.read(8), "little"))
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:12]
