"""Writes a model on disk in another form, tensor by tensor: a folder, or a single file."""

import logging
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.weights.deferred import Deferred
from flax_sd.weights.destination import MARK, SINGLE
from flax_sd.weights.diffusers_folder import save_component, write_json, written_aside
from flax_sd.weights.fill import as_dtype
from flax_sd.weights.ldm.contents import EMA
from flax_sd.weights.ldm.finite import unused_tensors
from flax_sd.weights.ldm.leftovers import Leftovers
from flax_sd.weights.ldm.parts import PREFIXES
from flax_sd.weights.ldm.writing import write_single
from flax_sd.weights.model import about, written_index
from flax_sd.weights.model_files import ModelFiles

_POSITIONS = re.compile(r"(.+\.)?position_ids")
_OF_NETWORKS = (*PREFIXES, EMA)
logger = logging.getLogger("flax_sd")


class Conversion(NamedTuple):
    """A model on disk, and how it is written.

    Attributes:
      files: the model.
      scheduler: its scheduler config, with any changes by options.
      dtype: float32, bfloat16 or float16; None keeps that of each tensor.
      told: called with the number of bytes of each tensor, when it is written.
    """

    files: ModelFiles
    scheduler: JsonObject
    dtype: str | None = None
    told: Callable[[int], None] = lambda size: None

    def write(self, out: pathlib.Path) -> None:
        """Writes the model, whole or not at all; one tensor at a time is in memory.

        Args:
          out: a name that ends in .safetensors, or a folder.

        Raises:
          UserError: numbers that are used are not finite or too large for the dtype, something has
            no place in a single file, or the disk is full.
        """
        if out.suffix == SINGLE:
            self._write_single(out)
        else:
            with written_aside(out) as aside:
                self._write_folder(aside)

    def size(self) -> int:
        """Returns the number of bytes of what is written."""
        components = (self.tensors(name) for name in self.files.kind.networks)
        every = [*components, self.leftovers.tensors]
        return sum(_bytes(tensor) for tensors in every for tensor in tensors.values())

    def tensors(self, component: str) -> dict[str, Deferred]:
        """Returns a component's tensors in their dtype, each read when it is written."""
        source = self.files.tensors(component)
        unused = unused_tensors(dict.fromkeys(source), component, self.files.template)
        return {
            key: self._written(
                Deferred.of(source, key), f"{component}: {key}", used=key not in unused
            )
            for key in source
        }

    @property
    def leftovers(self) -> Leftovers:
        """What a single file holds beside the components; those of networks in the dtype."""
        kept = self.files.leftovers
        tensors = {
            name: self._written(tensor, name, used=False, cast=name.startswith(_OF_NETWORKS))
            for name, tensor in kept.tensors.items()
        }
        return kept._replace(tensors=tensors)

    def _write_single(self, out: pathlib.Path) -> None:
        components = {name: self.tensors(name) for name in self.files.kind.networks}
        said = about(self.files, self.scheduler, components["unet"])
        write_single(out, said, components, self.leftovers, {MARK: "convert"})

    def _write_folder(self, aside: pathlib.Path) -> None:
        files = self.files
        for name in files.kind.networks:
            config = files.config(name)
            # transformers' configs say the dtype, and its loader believes them.
            keys = ("dtype", "torch_dtype") if self.dtype else ()
            said = {key: self.dtype for key in keys if key in config}
            save_component(aside, name, self.tensors(name), {**config, **said})
        for name in files.kind.tokenizers:
            files.tokenizer(name).save(aside / name)
        self.leftovers.save(aside)
        write_json(aside / "scheduler" / "scheduler_config.json", self.scheduler)
        index = written_index(files, self.scheduler)
        write_json(aside / "model_index.json", {**index, f"_{MARK}": "convert"})

    def _written(self, tensor: Deferred, name: str, *, used: bool, cast: bool = True) -> Deferred:
        """Returns a tensor in the dtype that is written."""
        if _POSITIONS.fullmatch(name.rpartition(" ")[2]):
            return _positions(tensor)
        floating = jnp.issubdtype(tensor.dtype, jnp.floating)
        target = as_dtype(self.dtype) if self.dtype and cast and floating else tensor.dtype

        def read() -> np.ndarray:
            array = tensor.read()
            with np.errstate(over="ignore"):  # named below
                made = array.astype(target, copy=False)
            if floating and not np.isfinite(made).all():
                _check(array, target, f"{self.files.folder}: {name}", used=used)
            self.told(made.nbytes)
            return made

        return Deferred(target, tensor.shape, read)


def _check(array: np.ndarray, target: np.dtype, where: str, *, used: bool) -> None:
    """Checks the numbers of a tensor that is not finite in the dtype that is written."""
    if np.isfinite(array).all():
        raise UserError(f"{where} has numbers that are too large for {target}: use another dtype")
    if used:
        raise UserError(
            f"{where} has numbers that are NaN or infinite: download the model again, or take "
            "another version of it"
        )
    logger.warning("%s has numbers that are NaN or infinite, and is never read", where)


def _positions(tensor: Deferred) -> Deferred:
    """Returns 0, 1, 2 …, which 16 bits and old files damage, as whole numbers."""
    if tensor.dtype == np.int64:
        return tensor
    count = int(np.prod(tensor.shape))
    return Deferred(
        np.dtype(np.int64), tensor.shape, lambda: np.arange(count).reshape(tensor.shape)
    )


def _bytes(tensor: Deferred) -> int:
    return int(np.prod(tensor.shape)) * tensor.dtype.itemsize
