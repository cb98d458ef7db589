"""LoRA files whose matrices have their alphas in them, so that their scales are not told apart.

To draw with such a file is the same. To train on, it is not: an optimizer that steps by a learning
rate moves a layer's update by its scale times that.
"""

import os
from collections.abc import Callable

from flax_sd.lora.adapter import LoRAFile
from flax_sd.lora.formats import peft
from flax_sd.lora.formats.read import locate
from flax_sd.weights.safetensors import TensorFile

Alphas = Callable[[str, str, int], float]  # (component, path, rank) -> alpha


def is_folded(path: str | os.PathLike[str], lora: LoRAFile) -> bool:
    """Tells whether a file's alphas differ from those that it was trained with.

    It has none, as our PEFT files, or one for all of several ranks, the largest of these, as
    `kohya.write` makes it.

    Args:
      lora: what was read from the file.

    Raises:
      UserError: the file cannot be read.
    """
    file = TensorFile(locate(path))
    if not any(key.endswith(".alpha") for key in file):
        return peft.read_config(file) is None
    adapters = [adapter for own in lora.values() for adapter in own.values()]
    ranks = {adapter.rank for adapter in adapters}
    return len(ranks) > 1 and {adapter.alpha for adapter in adapters} == {max(ranks)}


def unfolded(lora: LoRAFile, alphas: Alphas) -> LoRAFile:
    """Returns the same updates under other alphas."""
    return {
        component: {
            path: adapter.with_alpha(alphas(component, path, adapter.rank))
            for path, adapter in own.items()
        }
        for component, own in lora.items()
    }
