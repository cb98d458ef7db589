"""Writes a model as a single file, under the names that all programs read."""

import os
from collections.abc import Mapping

from flax_sd.errors import UserError, some
from flax_sd.weights.deferred import Deferred, Tensor, in_memory
from flax_sd.weights.ldm.changes import Change, written, written_shape
from flax_sd.weights.ldm.header import MARKS, About
from flax_sd.weights.ldm.leftovers import Leftovers
from flax_sd.weights.ldm.parts import Part, part_to_write
from flax_sd.weights.ldm.restored import check_blocks, restored
from flax_sd.weights.ldm.text_names import OPEN_CLIP
from flax_sd.weights.safetensors import write

_THIRDS = {Change.Q, Change.K, Change.V}


def write_single(
    path: str | os.PathLike[str],
    about: About,
    components: Mapping[str, Mapping[str, Tensor]],
    leftovers: Leftovers,
    extra: Mapping[str, str],
) -> None:
    """Writes a file, whole or not at all; of deferred tensors, one at a time is in memory.

    Args:
      path: the file.
      about: what it says of itself.
      components: by component, its tensors under diffusers' and transformers' names.
      leftovers: what else an original file had.
      extra: further strings of its header.

    Raises:
      UserError: a tensor has no place in such a file, or it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for component, own in components.items():
        part = part_to_write(component, about.template, own)
        placed = placed_tensors(part, own, component)
        kept = {k: t for k, t in leftovers.tensors.items() if k.startswith(part.prefix)}
        if part.renaming is OPEN_CLIP:
            if about.template == "sd2":
                check_blocks(placed, part.prefix)
            kept |= restored({**kept, **placed}, part.prefix, about.template)
        tensors |= {**kept, **placed}
    marks = about.marks(leftovers.tensors)
    further = {k: t for k, t in leftovers.tensors.items() if k not in MARKS or k in marks}
    write(path, {**marks, **further, **tensors}, {**about.metadata(leftovers.metadata), **extra})


def placed_tensors(part: Part, tensors: Mapping[str, Tensor], component: str) -> dict[str, Tensor]:
    """Returns a component's tensors as the file has them.

    Raises:
      UserError: some have no place there, or are a third of what the file has in one.
    """
    places = {key: part.place(key) for key in tensors}
    if unknown := sorted(key for key, place in places.items() if place is None):
        raise UserError(
            f"a checkpoint in one file has no place for {some(unknown)} of the {component}; name a "
            "folder to write"
        )
    groups: dict[str, dict[Change, Tensor]] = {}
    for key, place in places.items():
        assert place is not None
        groups.setdefault(place.name, {})[place.change] = tensors[key]
    return {name: _joined(name, parts) for name, parts in groups.items()}


def _joined(name: str, parts: Mapping[Change, Tensor]) -> Tensor:
    """Returns the file's tensor, of the component's one or three."""
    if [*parts] == [Change.NONE]:
        return parts[Change.NONE]
    dtypes = {tensor.dtype for tensor in parts.values()}
    if _THIRDS & {*parts} and ({*parts} != _THIRDS or len(dtypes) > 1):
        raise UserError(f"query, key and value of {name} are not all there, and of one dtype")
    shape = written_shape({change: tensor.shape for change, tensor in parts.items()})
    return Deferred(
        dtypes.pop(), shape, lambda: written({c: in_memory(t) for c, t in parts.items()})
    )
