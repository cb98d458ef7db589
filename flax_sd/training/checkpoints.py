"""The train state on disk: Orbax checkpoints in which every leaf is vouched for by its SHA-256.

Orbax writes a step aside and renames it when it is whole, so a killed process leaves no step that
looks complete. It does not notice a flipped bit; the hashes do.
"""

import errno
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from flax_sd.errors import UserError, listed, some
from flax_sd.files.atomic import with_disk
from flax_sd.system import distributed

LOGGER = logging.getLogger("flax_sd")
BYTES_BESIDE_ARRAYS = 2**20  # bytes of a checkpoint beside its arrays

# What json and tensorstore raise for files that are missing, cut off or wrong.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, RuntimeError)


class _Kept(ocp.checkpoint_managers.PreservationPolicy):
    """The newest checkpoints, and that of the step `best`, if there is one."""

    def __init__(self, newest: int) -> None:
        self._newest = newest
        self.best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        first = len(checkpoints) - self._newest
        return [i >= first or each.step == self.best for i, each in enumerate(checkpoints)]


class Checkpoints:
    """The newest `keep` states of a run and its best, in a folder that all its processes see."""

    def __init__(self, folder: pathlib.Path, keep: int) -> None:
        """Opens or creates the folder and clears away what a killed save left.

        Raises:
          UserError: the folder cannot be created or written.
        """
        self._kept = _Kept(keep)
        self.folder = folder.resolve()  # Orbax refuses relative paths, tensorstore those with ..
        self._manager = self._write(
            lambda: ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self._kept, cleanup_tmp_directories=True
                ),
                item_handlers={
                    "state": ocp.PyTreeCheckpointHandler(),
                    "leaves": ocp.JsonCheckpointHandler(),
                },
            )
        )

    def steps(self) -> list[int]:
        """The steps that are on disk, oldest first."""
        return sorted(s for s in self._manager.all_steps() if (self.folder / str(s)).is_dir())

    def save(self, step: int, state: PyTree, best: int | None = None) -> None:
        """Copies and hashes the state, then writes it in the background.

        The state may be donated or changed when this returns. A step that is there already is left
        as it is. All processes call it together.

        Args:
          best: the step, if any, whose state is to stay however old it is.

        Raises:
          UserError: this save, or the one before, could not be written.
        """
        if step in self._manager.all_steps():
            return
        self._kept.best = best
        arrays = {name: _to_host(leaf) for name, leaf in _named_leaves(state).items()}
        self._write(lambda: self._see_room(arrays))
        kinds = {name: _kind(leaf) for name, leaf in _named_leaves(state).items()}
        # One process hashes, since only one writes.
        digests = _digests(arrays) if jax.process_index() == 0 else dict.fromkeys(arrays, "")
        leaves = {name: [list(kinds[name][0]), kinds[name][1], digests[name]] for name in arrays}
        listing = {"leaves": leaves, "sha256": _digest_of_listing(leaves)}
        # Orbax copies NumPy arrays before it returns. That matters on a CPU, where these are views
        # of the device's own buffers.
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(arrays), leaves=ocp.args.JsonSave(listing)
        )
        self._write(lambda: self._manager.save(step, args=items, force=True))

    def wait(self) -> None:
        """Returns when the last save is on disk.

        Raises:
          UserError: it could not be written.
        """
        self._write(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits for the last save and ends the threads.

        Raises:
          UserError: the last save could not be written.
        """
        self._write(self._manager.close)

    def restore_newest(self, abstract_state: PyTree) -> tuple[int, Any] | None:
        """The newest state whose leaves all have their SHA-256, with its step.

        A damaged checkpoint is named in a warning; once an older one proves good, it is renamed to
        STEP.damaged, out of the way of the steps to come.

        Args:
          abstract_state: arrays or ShapeDtypeStructs; their shardings are the result's.

        Returns:
          (step, state), or None where nothing has been saved yet.

        Raises:
          UserError: the newest readable checkpoint is of another config, or none is good.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            state, problem = self._state(step, abstract_state)
            if not problem:
                self._set_aside(list(damaged))
                return step, state
            LOGGER.warning(
                "checkpoint %s is damaged: %s; trying the one before",
                self.folder / str(step),
                problem,
            )
            damaged[step] = problem
        if not damaged:
            return None
        reasons = [f"step {step}: {reason}" for step, reason in damaged.items()]
        raise UserError(
            listed(f"no checkpoint in {self.folder} is good:", reasons)
            + "\nput back a copy of the folder, or start anew with another output folder"
        )

    def restore(self, step: int, abstract_state: PyTree) -> Any | None:
        """The state of one step, as `restore_newest`; None, and a warning, if it is not good.

        Raises:
          UserError: it is of another config.
        """
        state, problem = self._state(step, abstract_state)
        if problem:
            LOGGER.warning("checkpoint %s cannot be read: %s", self.folder / str(step), problem)
        return None if problem else state

    def _state(self, step: int, abstract_state: PyTree) -> tuple[Any, str]:
        """A state, or what is wrong with it; raises UserError if it is of another config."""
        leaves, problem = self._attempt(step, self._read_listing)
        if problem:
            return None, problem
        self._check_fits(step, leaves, abstract_state)
        arrays, problem = self._attempt(step, lambda s: self._read(s, leaves))
        return (None, problem) if problem else (_place(arrays, abstract_state), "")

    def _attempt(self, step: int, read: Callable[[int], Any]) -> tuple[Any, str]:
        """What was read, or why it could not be, the same in every process."""
        value, problem = None, ""
        try:
            value = read(step)
        except UNREADABLE as error:
            problem = _reason(error)
        if jax.process_count() > 1:
            failed = multihost_utils.process_allgather(np.asarray(bool(problem)))
            problem = problem or ("another process cannot read it" if failed.any() else "")
        return value, problem

    def _read_listing(self, step: int) -> dict[str, list[Any]]:
        """The (shape, type, SHA-256) of every leaf."""
        listing = json.loads((self.folder / str(step) / "leaves" / "metadata").read_text())
        if _digest_of_listing(listing["leaves"]) != listing["sha256"]:
            raise ValueError("the list of its leaves is not what was saved (SHA-256)")
        return listing["leaves"]

    def _read(self, step: int, leaves: dict[str, list[Any]]) -> dict[str, np.ndarray]:
        """The leaves, each of which has its SHA-256.

        tensorstore reads them without Orbax, which would leave a traceback of its event loop for
        every leaf beside a damaged one, and wait for processes that read no further.
        """
        # Not as a URL, in which # and % of a folder's name would mean something.
        files = {"driver": "file", "path": f"{self.folder / str(step) / 'state'}/"}
        database = {"driver": "ocdbt", "base": files}
        pending = {
            name: ts.open({"driver": "zarr", "kvstore": {**database, "path": f"{name}/"}})
            for name in leaves
        }
        arrays = {name: future.result().read().result() for name, future in pending.items()}
        digests = _digests(arrays)
        changed = [name for name in leaves if digests[name] != leaves[name][2]]
        if changed:
            raise ValueError(f"not what was saved (SHA-256): {some(changed)}")
        return arrays

    def _check_fits(self, step: int, leaves: dict[str, list[Any]], abstract: PyTree) -> None:
        """Raises UserError if a whole checkpoint is not one of this state."""
        wanted = {name: _kind(leaf) for name, leaf in _named_leaves(abstract).items()}
        saved = {name: (tuple(shape), kind) for name, (shape, kind, _) in leaves.items()}
        problems = [f"only this run has {name}" for name in wanted.keys() - saved.keys()]
        problems += [f"only the checkpoint has {name}" for name in saved.keys() - wanted.keys()]
        problems += [
            f"{name} is {saved[name][1]}{list(saved[name][0])} in the checkpoint, "
            f"{wanted[name][1]}{list(wanted[name][0])} in this run"
            for name in saved.keys() & wanted.keys()
            if saved[name] != wanted[name]
        ]
        if problems:
            head = f"checkpoint {self.folder / str(step)} is of another config:"
            raise UserError(
                listed(head, sorted(problems))
                + "\nresume with the config that it was saved with, or use another output folder"
            )

    def _set_aside(self, steps: list[int]) -> None:
        """Renames damaged steps, so that the run can save them anew."""
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                aside = self.folder / f"{step}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                (self.folder / str(step)).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()

    def _see_room(self, arrays: dict[str, np.ndarray]) -> None:
        """Raises OSError if the disk cannot hold a state.

        tensorstore would find out too, but then prints a traceback for every leaf.
        """
        needed = BYTES_BESIDE_ARRAYS + sum(array.nbytes for array in arrays.values())
        if shutil.disk_usage(self.folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write(self, action: Callable[[], Any]) -> Any:
        """Runs what may write, and says what is wrong with the disk in the user's terms."""
        try:
            return action()
        except (OSError, ValueError, RuntimeError) as error:
            if distributed.is_gone(error):
                raise
            why = with_disk(_reason(error), self.folder)
            raise UserError(
                f"cannot write checkpoints to {self.folder}: {why}; what was saved before is "
                "safe: with room and write access, the same command goes on from it"
            ) from error


def _reason(error: BaseException) -> str:
    """The first sentence of an error, without tensorstore's appendix."""
    return (str(error) or type(error).__name__).splitlines()[0].split(" [tensorstore_spec")[0]


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves under their dotted paths."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat}
    assert len(named) == len(flat), "two leaves have one path"
    return named


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _kind(leaf: Any) -> tuple[tuple[int, ...], str]:
    """Shape and type, as the checkpoint lists them."""
    return tuple(np.shape(leaf)), str(getattr(leaf, "dtype", type(leaf).__name__))


def _to_host(leaf: Any) -> np.ndarray:
    """The whole leaf in host memory; a collective if it is divided over processes."""
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def _digests(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """The SHA-256 of each array's type, shape and bytes."""

    def digest(array: np.ndarray) -> str:
        sha = hashlib.sha256(f"{array.dtype}{list(array.shape)}".encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return sha.hexdigest()

    with ThreadPoolExecutor() as pool:  # hashlib lets go of the interpreter lock
        return dict(zip(arrays, pool.map(digest, arrays.values()), strict=True))


def _digest_of_listing(leaves: dict[str, list[Any]]) -> str:
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()


def _place(arrays: dict[str, np.ndarray], abstract: PyTree) -> PyTree:
    """The leaves as the kinds of array, and under the shardings, that the abstract state has."""

    def to_device(value: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
        if sharding is None:
            return jnp.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    def place(path: jax.tree_util.KeyPath, leaf: Any) -> Any:
        value = arrays[jax.tree_util.keystr(path, simple=True, separator=".")]
        if _is_key(leaf):
            return jax.random.wrap_key_data(to_device(value, leaf.sharding), dtype=leaf.dtype)
        if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            return to_device(value, leaf.sharding)
        return value if isinstance(leaf, np.ndarray) else type(leaf)(value.item())

    return jax.tree_util.tree_map_with_path(place, abstract)
