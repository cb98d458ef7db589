"""Sorts a single file's tensors into components, under diffusers' and transformers' names."""

import logging
from collections.abc import Iterator, Mapping

import numpy as np

from flax_sd.errors import UserError
from flax_sd.weights.ldm.marks import refuse_marks, refuse_parts
from flax_sd.weights.ldm.parts import UNET, Part, Place, Shapes, parts_of

EMA = "model_ema."
Places = dict[str, Place]  # by the component's names
logger = logging.getLogger("flax_sd")


class Contents:
    """The components of a single file, by the names of its tensors alone.

    Attributes:
      parts: the components, under their prefixes.
      places: by component, where each of its tensors is.
      left: the tensors that are known and that no component has.

    Raises:
      UserError: the file is no Stable Diffusion, or marked as one that is not supported.
    """

    def __init__(self, shapes: Shapes, where: str, *, ema: bool = False):
        """Sorts the tensors.

        Args:
          shapes: of all tensors in the file.
          where: the file, for messages.
          ema: whether the UNet's running mean is read in place of its last weights.
        """
        self.parts = parts_of(shapes)
        if not self.parts:
            refuse_parts(shapes, where)
        self.places: dict[str, Places] = {part.component: {} for part in self.parts}
        if len(self.places) < len(self.parts):
            prefixes = ", ".join(part.prefix for part in self.parts)
            raise UserError(
                f"{where} holds a component twice, under the prefixes {prefixes}; remove one"
            )
        unknown = [name for name in shapes if not self._take(name)]
        refuse_marks(unknown, shapes, where)
        taken = {place.name for places in self.places.values() for place in places.values()}
        self.left = [name for name in shapes if name not in taken]
        if ema:
            self.places["unet"] = _means(self.places.get("unet", {}), shapes, where)
            self.left = [name for name in self.left if not name.startswith(EMA)]
        elif any(name.startswith(EMA) for name in shapes):
            logger.info("%s: the UNet's running mean (model_ema) is not read", where)

    def _take(self, name: str) -> bool:
        """Adds a tensor to its component; returns whether it is known."""
        owner = self.owner(name)
        if owner is None:
            return False
        if owner.skips(name):
            return True
        found = owner.places(name)
        self.places[owner.component] |= found
        return bool(found)

    def owner(self, name: str) -> Part | None:
        """Returns the part that has a tensor: of several, that with the longest prefix."""
        owners = [part for part in self.parts if name.startswith(part.prefix)]
        return max(owners, key=lambda part: len(part.prefix), default=None)


def _means(places: Places, shapes: Shapes, where: str) -> Places:
    """Returns the places of the UNet's running mean, whose names have no dots inside."""
    for outside in ("model.", UNET):  # some files say diffusion_model in these names, some do not
        found = {
            key: Place(EMA + place.name.removeprefix(outside).replace(".", ""), place.change)
            for key, place in places.items()
        }
        if found and all(place.name in shapes for place in found.values()):
            return found
    raise UserError(
        f"{where} holds no whole running mean (EMA) of a UNet, under names such as "
        f"{EMA}diffusion_modelinput_blocks00weight; leave out ema"
    )


class Tensors(Mapping[str, np.ndarray]):
    """A component's tensors, changed to its layout when they are read, as views of the file."""

    def __init__(self, source: Mapping[str, np.ndarray], places: Places):
        """Stores where each tensor is; reads nothing."""
        self._source, self._places = source, places

    def __getitem__(self, key: str) -> np.ndarray:
        place = self._places[key]
        return place.change.read(self._source[place.name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def component_shapes(shapes: Shapes, places: Places) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a component's tensors without reading them."""
    return {
        key: place.change.read(np.broadcast_to(np.float32(0), shapes[place.name])).shape
        for key, place in places.items()
    }
