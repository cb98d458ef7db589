"""The description of a LoRA format for reading, and helpers that all writers share."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from flax_sd.errors import UserError
from flax_sd.lora.adapter import Adapter, LoRAFile

# A layer of an attention, in the UNet or a text encoder.
ATTENTION = re.compile(r".*\.(attn[12]|self_attn)\..*")


class LayerRef(NamedTuple):
    """A layer of the model: its component, and its dotted path there."""

    component: str
    path: str


class Format(NamedTuple):
    """One way to name a LoRA's tensors. A key is the name of a layer and an ending for a part.

    Attributes:
      titles: pattern of what its keys begin with -> its name as `flax-sd inspect` prints it.
      ends: part ("down", "up", "alpha", "magnitude") -> pattern of the ends of its keys.
      names: the names that it has for a layer, whose path may be one of `spellings`.
      original_names: those that it has for the UNet's layer with an original (LDM) path.
    """

    titles: Mapping[str, str]
    ends: Mapping[str, str]
    names: Callable[[LayerRef], Iterable[str]]
    original_names: Callable[[str], Iterable[str]] = lambda _: ()


def spellings(path: str) -> Iterator[str]:
    """Yields the forms of a dotted path that programs have written over the years."""
    # transformers >= 5 has no `text_model.` in CLIPTextModel, so new files may lack it.
    for known in {path, path.removeprefix("text_model.")}:
        yield known
        parent, _, layer = known.removesuffix(".0").rpartition(".")
        if re.fullmatch(r"(.*\.)?attn\d", parent):  # attention processors of diffusers 0.12-0.21
            yield f"{parent}.processor.{layer}"
        if parent.endswith("self_attn"):
            yield f"{parent}.to_{layer.removesuffix('_proj')}"


def flatten(lora: LoRAFile) -> dict[LayerRef, Adapter]:
    """Returns the adapters by layer.

    Raises:
      UserError: there are none.
    """
    adapters = {LayerRef(c, path): one for c, own in lora.items() for path, one in own.items()}
    if not adapters:
        raise UserError("there is no LoRA to write: no layer has one")
    return adapters


def with_alpha(
    adapter: Adapter, alpha: float | int, dtype: DTypeLike
) -> tuple[np.ndarray, np.ndarray]:
    """Returns down and up for another alpha, with the same product."""
    up = np.asarray(adapter.with_alpha(alpha).up, np.float32)
    with np.errstate(over="ignore"):  # check_finite names what a narrow dtype cannot hold
        return np.asarray(adapter.down).astype(dtype), up.astype(dtype)
