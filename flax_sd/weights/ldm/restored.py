"""What a text encoder of OpenCLIP has in original files and lost in transformers' form.

No Stable Diffusion reads these tensors. Programs that load a file strictly want them, and others
warn where they lack.
"""

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from flax_sd.errors import UserError
from flax_sd.weights.deferred import Tensor
from flax_sd.weights.ldm.parts import Template

_LOGIT_SCALE = math.log(100)  # where CLIP's training clips it, and where all ended
_READ = 23  # blocks of SD 2.x's text encoder that are read, of 24
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")


def check_blocks(names: Iterable[str], prefix: str) -> None:
    """Checks that a text encoder of SD 2.x has no more blocks than are read of a file.

    Raises:
      UserError: it has more.
    """
    found = (_BLOCK.match(name.removeprefix(prefix)) for name in names)
    count = 1 + max(int(match[1]) for match in found if match)
    if count > _READ:
        raise UserError(
            f"its text encoder has {count} layers, and of Stable Diffusion 2.x in one file {_READ} "
            "are read; name a folder to write"
        )


def restored(tensors: Mapping[str, Tensor], prefix: str, template: Template) -> dict[str, Tensor]:
    """Returns what a text encoder lacks, by names in the file.

    logit_scale becomes ln 100. SD 2.x's last block is a copy of the one before, and its projection
    an identity, which diffusers takes where it lacks.

    Args:
      tensors: those in the file, with what was kept of an original one.
      prefix: of the text encoder's.
      template: the kind of model.
    """
    inside = {name.removeprefix(prefix): tensors[name] for name in tensors}
    words = inside["token_embedding.weight"]
    lost: dict[str, Tensor] = {"logit_scale": np.asarray(_LOGIT_SCALE, words.dtype)}
    if template == "sd2":
        lost["text_projection"] = np.eye(words.shape[1], dtype=words.dtype)
        lost |= _last_block(inside)
    there = {name.removesuffix(".weight") for name in inside} | inside.keys()
    return {prefix + name: tensor for name, tensor in lost.items() if name not in there}


def _last_block(inside: Mapping[str, Tensor]) -> dict[str, Tensor]:
    last = f"transformer.resblocks.{_READ - 1}."
    return {
        name.replace(last, f"transformer.resblocks.{_READ}."): tensor
        for name, tensor in inside.items()
        if name.startswith(last)
    }
