"""What a LoRA file holds, found out without the model that it belongs to."""

import collections
import re
from typing import NamedTuple

import numpy as np

from flax_sd.lora.formats import sd_layers
from flax_sd.lora.formats.keys import Place, by_layer
from flax_sd.lora.formats.peft_config import AlphaRule, alpha_rule, is_rank_stabilised, is_raw_peft
from flax_sd.weights.safetensors import TensorFile

KOHYA = "kohya's names"
_FORMATS = {  # the first whose pattern a key begins with
    KOHYA: r"lora_(unet|te\d?)_",
    "PEFT's names, as peft saves them": r"base_model\.model\.",
    "PEFT's names (diffusers writes them too)": r".*\.lora_([AB]\b|magnitude_vector)",
    "diffusers' old names (attention processors)": r".*(\.processor\.|_lora\.)",
    "diffusers' old names (lora.down)": r".*\.(lora|lora_linear_layer)\.(down|up)",
}


class Layer(NamedTuple):
    """One layer's update.

    Attributes:
      keys: of the file, by part: "down", "up", "alpha", "magnitude".
      norm: Frobenius norm of alpha / rank · up @ down.
    """

    keys: dict[str, str]
    rank: int
    alpha: float
    norm: float


class Contents(NamedTuple):
    """The layers of a file.

    Attributes:
      format: whose names it has.
      rank_stabilised: its config says that the scale is alpha / √rank; alphas here are such that
        the scale is alpha / rank.
      unknown: keys of no layer that a Stable Diffusion has.
      problems: what is wrong with the file itself, other than numbers that are not finite.
    """

    format: str
    layers: dict[Place, Layer]
    rank_stabilised: bool
    unknown: list[str]
    problems: list[str]


def read_contents(file: TensorFile) -> Contents:
    """Looks at every tensor of a LoRA file.

    Raises:
      UserError: the scale stands in a config of PEFT's that is not there or not readable.
    """
    groups, unknown, problems = by_layer(file, sd_layers.places())
    peft = (file.path, file.metadata, is_raw_peft(file))
    layers: dict[Place, Layer] = {}
    rule = alpha_rule(*peft)
    for place, keys in groups.items():
        wrong = _misshaped(file, keys)
        problems += wrong
        if not wrong:
            layers[place] = _layer(file, place, keys, rule)
    return Contents(_format(file), layers, is_rank_stabilised(*peft), unknown, problems)


def _format(file: TensorFile) -> str:
    """Whose names the keys have; the commonest first, if they differ."""
    found = collections.Counter(
        name
        for key in file
        for name in [next((n for n, p in _FORMATS.items() if re.match(p, key)), None)]
        if name
    )
    return " and ".join(name for name, _ in found.most_common())


def _misshaped(file: TensorFile, keys: dict[str, str]) -> list[str]:
    """What keeps a layer's tensors from being an update."""
    missing = {"down", "up"} - keys.keys()
    if missing:
        return [f"no {' or '.join(sorted(missing))} beside {min(keys.values())}"]
    down, up = file.shape(keys["down"]), file.shape(keys["up"])
    if len(down) < 2 or len(up) < 2 or down[0] != up[1] or not down[0]:
        return [f"{keys['down']} is {list(down)} and up {list(up)}: [rank, …] and [out, rank, …]"]
    if "alpha" in keys and file[keys["alpha"]].size != 1:
        return [f"{keys['alpha']} is {list(file.shape(keys['alpha']))}, not one number"]
    return []


def _layer(file: TensorFile, place: Place, keys: dict[str, str], rule: AlphaRule) -> Layer:
    down, up = (file[keys[part]].astype(np.float64) for part in ("down", "up"))
    down, up = down.reshape(len(down), -1), up.reshape(len(up), -1)
    rank = len(down)
    alpha = float(file[keys["alpha"]].item()) if "alpha" in keys else rule(place, rank)
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is named by itself
        squared = np.sum((up.T @ up) * (down @ down.T))  # ‖up @ down‖², without the product
    return Layer(keys, rank, alpha, abs(alpha) / rank * float(np.sqrt(max(squared, 0))))
