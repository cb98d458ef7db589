"""The LoRAs attached to a pipeline, by name."""

import itertools
import os
from collections.abc import Mapping

from flax import nnx

from flax_sd.errors import UserError
from flax_sd.files.paths import named
from flax_sd.lora.formats.read import read
from flax_sd.lora.inject import attach, detach

COMPONENTS = ("unet", "text_encoder")


class AttachedLoRAs:
    """Adds LoRA files to networks, and removes them by the name that they were given."""

    def __init__(self):
        self._parts: dict[str, tuple[str, list[str]]] = {}  # name -> its slot, its components

    def add(
        self,
        networks: Mapping[str, nnx.Module],
        path: str | os.PathLike[str],
        scale: float,
        name: str | None,
    ) -> str:
        """Attaches a file to the networks of COMPONENTS; returns its name.

        Args:
          name: unset takes the file's; where that is taken, as by another run's lora.safetensors,
            with a number behind it.

        Raises:
          UserError: it is not a LoRA, is one of another model, or the name that was given is taken.
        """
        name = name or self._free(named(path).stem)
        if name in self._parts:
            raise UserError(f"a LoRA called {name!r} exists already; remove it or name this one")
        file = read(path, {component: networks[component] for component in COMPONENTS})
        taken = {slot for slot, _ in self._parts.values()}
        # Under the first free number instead of its name: a name would be part of the program.
        slot = next(f"lora{i}" for i in range(len(taken) + 1) if f"lora{i}" not in taken)
        for component, adapters in file.items():
            attach(networks[component], adapters, scale, slot)
        self._parts[name] = (slot, list(file))
        return name

    def _free(self, stem: str) -> str:
        names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        return next(name for name in names if name not in self._parts)

    def remove(self, networks: Mapping[str, nnx.Module], name: str) -> None:
        """Detaches a LoRA.

        Raises:
          UserError: there is none of that name.
        """
        if name not in self._parts:
            there = ", ".join(self._parts) or "none"
            raise UserError(f"there is no LoRA called {name!r}; there is {there}")
        slot, components = self._parts.pop(name)
        for component in components:
            detach(networks[component], slot)
