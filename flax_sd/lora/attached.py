"""The LoRAs attached to a pipeline, by name."""

import itertools
import math
import os
from collections.abc import Mapping
from typing import NamedTuple

from flax import nnx

from flax_sd.errors import UserError
from flax_sd.files.paths import named
from flax_sd.lora.adapter import LoRAFile
from flax_sd.lora.formats.read import read
from flax_sd.lora.inject import attach, detach, set_strength

WITHOUT = "vae"  # the component that no LoRA is for


class Attached(NamedTuple):
    """A LoRA in the networks.

    With a scale of 0 it is left out of them: their program is then the one without it, so that
    images are the same to the bit, which a sum with zeros is not on every processor.
    """

    slot: str  # its name in the layers
    scale: float
    adapters: LoRAFile


class AttachedLoRAs:
    """Adds LoRA files to networks, scales and removes them by the name that they were given."""

    def __init__(self):
        self._attached: dict[str, Attached] = {}

    @property
    def scales(self) -> dict[str, float]:
        """The scale of each, in the order in which they were added."""
        return {name: each.scale for name, each in self._attached.items()}

    def add(
        self,
        networks: Mapping[str, nnx.Module],
        path: str | os.PathLike[str],
        scale: float,
        name: str | None,
    ) -> str:
        """Attaches a file to the UNet and the text encoders; returns its name.

        Args:
          name: unset takes the file's; where that is taken, as by another run's lora.safetensors,
            with a number behind it.

        Raises:
          UserError: it is not a LoRA, is one of another model, the name that was given is taken, or
            the scale is not a number.
        """
        _check(scale)
        name = name or self._free(named(path).stem)
        if name in self._attached:
            raise UserError(f"a LoRA called {name!r} exists already; remove it or name this one")
        adapted = {name: own for name, own in networks.items() if name != WITHOUT}
        file = read(path, adapted, bundled=True)
        taken = {each.slot for each in self._attached.values()}
        # Under the first free number instead of its name: a name would be part of the program.
        slot = next(f"lora{i}" for i in range(len(taken) + 1) if f"lora{i}" not in taken)
        self._attached[name] = _scaled(networks, Attached(slot, 0.0, file), scale)
        return name

    def _free(self, stem: str) -> str:
        names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        return next(name for name in names if name not in self._attached)

    def set_scale(self, networks: Mapping[str, nnx.Module], name: str, scale: float) -> None:
        """Scales a LoRA anew, as if it had been added with this scale.

        Raises:
          UserError: there is none of that name, or the scale is not a number.
        """
        attached = self._find(name)
        _check(scale)
        self._attached[name] = _scaled(networks, attached, scale)

    def remove(self, networks: Mapping[str, nnx.Module], name: str) -> None:
        """Detaches a LoRA.

        Raises:
          UserError: there is none of that name.
        """
        _scaled(networks, self._find(name), 0.0)
        del self._attached[name]

    def _find(self, name: str) -> Attached:
        if name not in self._attached:
            there = ", ".join(self._attached) or "none"
            raise UserError(f"there is no LoRA called {name!r}; there is {there}")
        return self._attached[name]


def _scaled(networks: Mapping[str, nnx.Module], own: Attached, scale: float) -> Attached:
    """Gives a LoRA another scale; returns what is then in the networks."""
    for component, adapters in own.adapters.items():
        network = networks[component]
        if own.scale and scale:
            strengths = {layer: adapter.scale for layer, adapter in adapters.items()}
            set_strength(network, strengths, scale, own.slot)
        elif own.scale:
            detach(network, own.slot)
        elif scale:
            attach(network, adapters, scale, own.slot)
    return own._replace(scale=scale)


def _check(scale: float) -> None:
    if not math.isfinite(scale):
        raise UserError(f"the scale of a LoRA is {scale}: should be a number, as 0.8")
