"""Selects the layers of a network that get a LoRA: presets and regular expressions on paths."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from flax import nnx

from flax_sd.errors import UserError
from flax_sd.lora.layers import Layer, LoRA

_ATTENTION = r"(?:to_q|to_k|to_v|to_out\.0|[qkv]_proj|out_proj)"
_FEED_FORWARD = r"(?:ff\.net\.0\.proj|ff\.net\.2|mlp\.fc[12])"
# All of Transformer2DModel, whose convolutions are 1x1 (proj_in, proj_out), CLIPAttention, CLIPMLP.
_TRANSFORMERS = r"(?:attentions\.\d+\..+|self_attn\.\w+|mlp\.fc[12])"
PRESETS: dict[str, tuple[str, tuple[type, ...]]] = {
    # what the name stands for: a pattern on the dotted path, and the kinds of layer
    "attention": (rf"(?:.*\.)?{_ATTENTION}", (nnx.Linear, nnx.Conv)),
    "attention+ff": (rf"(?:.*\.)?(?:{_ATTENTION}|{_FEED_FORWARD})", (nnx.Linear, nnx.Conv)),
    "sd-scripts": (rf"(?:.*\.)?{_TRANSFORMERS}", (nnx.Linear, nnx.Conv)),
    "all-linear": (r".*", (nnx.Linear,)),
    "conv": (r".*", (nnx.Linear, nnx.Conv)),
}


class Slot(NamedTuple):
    """The place of a layer in a network, so that it can be replaced."""

    parent: nnx.Module
    name: str
    layer: Layer | LoRA

    @property
    def base(self) -> Layer:
        """The layer, without a LoRA around it."""
        return self.layer.base if isinstance(self.layer, LoRA) else self.layer


def slots(model: nnx.Module) -> dict[str, Slot]:
    """Returns every linear and convolution by its dotted path, which is its key in a checkpoint."""
    return dict(_walk(model, ""))


def _walk(module: nnx.Module, prefix: str) -> Iterator[tuple[str, Slot]]:
    for name, child in vars(module).items():
        if isinstance(child, (nnx.Linear, nnx.Conv, LoRA)):
            yield prefix + name, Slot(module, name, child)
        elif isinstance(child, nnx.Module):
            yield from _walk(child, f"{prefix}{name}.")


def injected(model: nnx.Module) -> list[tuple[str, Slot, LoRA]]:
    """Returns the layers that have a LoRA around them, with their dotted paths."""
    found = slots(model).items()
    return [(path, slot, slot.layer) for path, slot in found if isinstance(slot.layer, LoRA)]


def match(model: nnx.Module, targets: str) -> list[str]:
    """Returns the dotted paths that a preset or a regular expression (matching in full) picks.

    Raises:
      UserError: the expression is broken or picks nothing.
    """
    pattern, kinds = PRESETS.get(targets, (targets, (nnx.Linear, nnx.Conv)))
    table = slots(model)
    try:
        picks = re.compile(pattern).fullmatch
    except re.error as error:
        raise UserError(
            f"lora targets {targets!r}: not a regular expression ({error}), "
            f"nor one of {', '.join(PRESETS)}"
        ) from error
    found = [path for path, slot in table.items() if isinstance(slot.base, kinds) and picks(path)]
    if not found:
        some = list(table)[:: max(1, len(table) // 4)][:4]
        raise UserError(
            f"lora targets {targets!r}: no linear or convolution of {type(model).__name__} has "
            f"such a path; take one of {', '.join(PRESETS)}, or an expression that matches "
            f"whole paths like {', '.join(some)}"
        )
    return found
