"""Arrays on disk by key, in the user's cache folder, so that runs share what they encode."""

import functools
import hashlib
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

import flax_sd
from flax_sd.errors import UserError
from flax_sd.files.atomic import explain_write_errors
from flax_sd.files.retry import with_retries
from flax_sd.files.user_cache import user_cache
from flax_sd.weights import safetensors


class Store:
    """One safetensors file for each key; a killed process leaves no partial file."""

    def __init__(self, folder: pathlib.Path | None = None):
        """Opens a folder, by default in the user's cache."""
        self.folder = folder or user_cache() / "encoded"

    def has(self, key: str) -> bool:
        """Tells if the arrays are there; a truncated file counts as absent."""
        path = self._path(key)
        try:
            return with_retries(lambda: path.is_file() and bool(safetensors.TensorFile(path)), path)
        except (UserError, OSError):
            return False

    def read(self, key: str) -> dict[str, np.ndarray]:
        """Reads the arrays.

        Raises:
          UserError: they are no longer there.
        """
        path = self._path(key)
        try:
            with_retries(path.read_bytes, path)  # an error in a mapped file would end the process
            file = safetensors.TensorFile(path)
            return {name: np.array(file[name]) for name in file}
        except (UserError, OSError) as error:
            what = f"{path} is not there" if isinstance(error, FileNotFoundError) else error
            raise UserError(
                f"{what}: it was there when the run began; run the same command again to encode it"
            ) from error

    def write(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the arrays.

        Raises:
          UserError: they cannot be written.
        """
        path = self._path(key)
        try:
            with explain_write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            safetensors.write(path, arrays, shared=True)  # two runs may encode the same image
        except UserError as error:
            raise UserError(
                f"{error}; it is a cache: free some space there, set XDG_CACHE_HOME to a "
                "folder on another disk, or data.encode_once to false"
            ) from error

    def limit(self, size: int) -> None:
        """Deletes the oldest files until `size` bytes are left at most.

        Raises:
          OSError: another process deletes at the same time, or nothing may be deleted.
        """
        files = [(path.stat(), path) for path in self.folder.rglob("*.safetensors")]
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if total <= size:
                return
            path.unlink()
            total -= stat.st_size

    def room(self) -> int:
        """Returns the free bytes on the store's disk."""
        folder = next(p for p in (self.folder, *self.folder.parents) if p.exists())
        return shutil.disk_usage(folder).free

    def _path(self, key: str) -> pathlib.Path:
        return self.folder / key[:2] / f"{key}.safetensors"  # a folder of 10⁶ files is slow


def key_of(*values: Any) -> str:
    """Returns a hash of values that JSON can hold."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


@functools.cache
def code_version() -> str:
    """Returns a hash of the code that makes moments and states, and of JAX's version.

    Arrays of another version are not found, and are encoded again.
    """
    package = pathlib.Path(flax_sd.__file__).parent
    sources = [path for name in ("data", "models") for path in (package / name).rglob("*.py")]
    digest = hashlib.sha256(jax.__version__.encode())
    for path in sorted(sources):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def identity(network: Any, state: nnx.State) -> str:
    """Returns a hash of a network's config and weights, and of the kind of device."""
    digest = hashlib.sha256(f"{network.config!r} {jax.default_backend()}".encode())
    for leaf in map(np.asarray, jax.tree.leaves(state)):
        digest.update(f"{leaf.shape} {leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
