"""Checks a checkpoint's numbers: those that are used must be finite, others are a warning."""

import logging
import re
from collections.abc import Mapping

import numpy as np

from flax_sd.errors import UserError, some
from flax_sd.weights.ldm.parts import Template

_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d{1,2})\..+")
_AFTER_LAYERS = re.compile(r"text_model\.final_layer_norm\..+|text_projection\..+")
_UNREAD = re.compile(r"text_model\.embeddings\.position_ids|logit_scale")
logger = logging.getLogger("flax_sd")


def broken_unused(
    tensors: Mapping[str, np.ndarray], component: str, template: Template | None, where: str
) -> list[str]:
    """Returns tensors that are broken and never read, with a log warning, if no others are broken.

    Args:
      tensors: by their names in a diffusers folder.
      component: its name there.
      template: the kind of model.
      where: the file, for messages.

    Raises:
      UserError: numbers that are used are NaN or infinite; the tensors are named.
    """
    broken = sorted(key for key, tensor in tensors.items() if not _is_finite(tensor))
    unused = unused_tensors(tensors, component, template)
    ignored = [key for key in broken if key in unused]
    if ignored:
        logger.warning("%s: NaN or infinite, but never read: %s", where, some(ignored))
    if used := [key for key in broken if key not in unused]:
        raise UserError(
            f"{where} is damaged: its {component} has numbers that are NaN or infinite in "
            f"{some(used)}; download it again, or take another version of it"
        )
    return ignored


def _is_finite(tensor: np.ndarray) -> bool:
    return tensor.dtype.kind in "biu" or bool(np.isfinite(tensor).all())


def unused_tensors(
    keys: Mapping[str, object], component: str, template: Template | None
) -> set[str]:
    """Returns the tensors of a component that no network of the family reads.

    SDXL reads the first text encoder before its last layer.
    """
    unread = {key for key in keys if _UNREAD.fullmatch(key)}
    layers = {key: int(found[1]) for key in keys if (found := _LAYER.fullmatch(key))}
    if component == "text_encoder" and template == "sdxl":
        last = max(layers.values(), default=0)
        unread |= {key for key, layer in layers.items() if layer == last}
        unread |= {key for key in keys if _AFTER_LAYERS.fullmatch(key)}
    return unread
