"""The train state on disk: Orbax checkpoints with a SHA-256 for every leaf.

Orbax writes a step under another name and renames it when it is complete, so a killed process never
leaves a step that looks complete. It does not notice a flipped bit; the hashes do.
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
from typing import Any, TypeVar

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
from flax_sd.training.flat import joined_like, trees

LOGGER = logging.getLogger("flax_sd")
T = TypeVar("T")
State = TypeVar("State")  # a pytree
Leaf = Any  # an array, a random key or a number
Leaves = dict[str, list[Any]]  # by name: shape, dtype and SHA-256, as JSON holds them
BYTES_BESIDE_ARRAYS = 2**20  # of a checkpoint, for all that is not an array

# Errors of json and tensorstore for files that are missing, truncated or wrong.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, RuntimeError)


class _NewestAndBest(ocp.checkpoint_managers.PreservationPolicy):
    """Keeps the newest checkpoints and, if it is set, that of the step `best`."""

    def __init__(self, newest: int) -> None:
        self._newest = newest
        self.best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        first = len(checkpoints) - self._newest
        return [i >= first or each.step == self.best for i, each in enumerate(checkpoints)]


class Checkpoints:
    """The newest `keep` states of a run and its best, in a folder that all its processes see."""

    def __init__(self, folder: pathlib.Path, keep: int) -> None:
        """Opens or creates the folder and deletes what a killed save left.

        Raises:
          UserError: the folder cannot be created or written.
        """
        self._policy = _NewestAndBest(keep)
        self.folder = folder.resolve()  # Orbax refuses relative paths, tensorstore those with ..
        self._manager = self._write(
            lambda: ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self._policy, cleanup_tmp_directories=True
                ),
                item_handlers={
                    "state": ocp.PyTreeCheckpointHandler(),
                    "leaves": ocp.JsonCheckpointHandler(),
                },
            )
        )

    def steps(self) -> list[int]:
        """Returns the steps that are on disk, oldest first."""
        return sorted(s for s in self._manager.all_steps() if (self.folder / str(s)).is_dir())

    def save(self, step: int, state: PyTree, best: int | None = None) -> None:
        """Copies and hashes the state, then writes it in the background.

        The state may be donated or changed when this returns. A step that is on disk already is not
        written again. All processes call it together.

        Args:
          best: the step, if any, whose state is kept however old it is.

        Raises:
          UserError: this save, or the one before, could not be written.
        """
        if step in self._manager.all_steps():
            return
        state = trees(state)
        self._policy.best = best
        arrays = {name: _to_host(leaf) for name, leaf in _named_leaves(state).items()}
        self._write(lambda: self._check_room(arrays))
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

    def restore_newest(self, abstract_state: State) -> tuple[int, State] | None:
        """Returns the newest state whose leaves all match their SHA-256, with its step.

        A damaged checkpoint is named in a warning; if an older one is good, it is renamed to
        STEP.damaged, so that the run can save that step again.

        Args:
          abstract_state: arrays or ShapeDtypeStructs; their shardings are the result's.

        Returns:
          (step, state), or None if nothing has been saved yet.

        Raises:
          UserError: the newest readable checkpoint is of another config, or none is good.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            state, problem = self._state(step, abstract_state)
            if state is not None:
                self._set_aside(list(damaged))
                return step, state
            LOGGER.warning(
                "checkpoint %s is damaged: %s; trying the one before it",
                self.folder / str(step),
                problem,
            )
            damaged[step] = problem
        if not damaged:
            return None
        reasons = [f"step {step}: {reason}" for step, reason in damaged.items()]
        raise UserError(
            listed(f"no checkpoint in {self.folder} is good:", reasons)
            + "\nrestore a copy of the folder, or start a new run with another --output"
        )

    def restore(self, step: int, abstract_state: State) -> State | None:
        """Returns the state of one step, as `restore_newest`; None, with a warning, if damaged.

        Raises:
          UserError: it is of another config.
        """
        state, problem = self._state(step, abstract_state)
        if problem:
            LOGGER.warning("checkpoint %s cannot be read: %s", self.folder / str(step), problem)
        return None if problem else state

    def _state(self, step: int, abstract_state: State) -> tuple[State | None, str]:
        """Returns a state, or what is wrong with it; UserError if it is of another config."""
        leaves, problem = self._attempt(lambda: self._read_listing(step))
        if leaves is None:
            return None, problem
        self._check_fits(step, leaves, abstract_state)
        arrays, problem = self._attempt(lambda: self._read(step, leaves))
        return (None, problem) if arrays is None else (_place(arrays, abstract_state), "")

    def _attempt(self, read: Callable[[], T]) -> tuple[T | None, str]:
        """Returns what was read, or why no process can use it."""
        value, problem = None, ""
        try:
            value = read()
        except UNREADABLE as error:
            problem = _reason(error)
        if jax.process_count() > 1:
            failed = multihost_utils.process_allgather(np.asarray(bool(problem)))
            problem = problem or ("another process cannot read it" if failed.any() else "")
        return None if problem else value, problem

    def _read_listing(self, step: int) -> Leaves:
        """Reads the shape, dtype and SHA-256 of every leaf."""
        listing = json.loads((self.folder / str(step) / "leaves" / "metadata").read_text())
        if _digest_of_listing(listing["leaves"]) != listing["sha256"]:
            raise ValueError("the list of its leaves is not the one that was saved (SHA-256)")
        return listing["leaves"]

    def _read(self, step: int, leaves: Leaves) -> dict[str, np.ndarray]:
        """Reads the leaves; raises ValueError unless each matches its SHA-256.

        tensorstore reads them without Orbax, which would print a traceback of its event loop for
        every leaf beside a damaged one, and wait for processes that have stopped reading.
        """
        # Not a URL, in which # and % of a folder's name would have a meaning.
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

    def _check_fits(self, step: int, leaves: Leaves, abstract: PyTree) -> None:
        """Raises UserError if the leaves are not those of this state."""
        wanted = {name: _kind(leaf) for name, leaf in _named_leaves(trees(abstract)).items()}
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
                + "\nresume with the config that it was saved with, or choose another --output"
            )

    def _set_aside(self, steps: list[int]) -> None:
        """Renames damaged steps, so that the run can save them again."""
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

    def _check_room(self, arrays: dict[str, np.ndarray]) -> None:
        """Raises OSError if the disk cannot hold a state.

        tensorstore would notice too, but it then prints a traceback for every leaf.
        """
        needed = BYTES_BESIDE_ARRAYS + sum(array.nbytes for array in arrays.values())
        if shutil.disk_usage(self.folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write(self, action: Callable[[], T]) -> T:
        """Runs an action that may write; explains errors of the disk as a UserError."""
        try:
            return action()
        except (OSError, ValueError, RuntimeError) as error:
            if distributed.is_gone(error):
                raise
            why = with_disk(_reason(error), self.folder)
            raise UserError(
                f"cannot write checkpoints to {self.folder}: {why}; what was saved before is "
                "safe: free space or get write access, then run the same command again to resume"
            ) from error


def _reason(error: BaseException) -> str:
    """Returns the first line of an error, without the spec that tensorstore appends."""
    return (str(error) or type(error).__name__).splitlines()[0].split(" [tensorstore_spec")[0]


def _named_leaves(tree: PyTree) -> dict[str, Leaf]:
    """Returns the leaves by dotted path."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat}
    assert len(named) == len(flat), "two leaves have one path"
    return named


def _is_key(leaf: Leaf) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _kind(leaf: Leaf) -> tuple[tuple[int, ...], str]:
    """Returns shape and dtype, as the checkpoint lists them."""
    return tuple(np.shape(leaf)), str(getattr(leaf, "dtype", type(leaf).__name__))


def _to_host(leaf: Leaf) -> np.ndarray:
    """Copies the whole leaf to host memory; a collective if processes share it."""
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def _digests(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """Returns the SHA-256 of each array's dtype, shape and bytes."""

    def digest(array: np.ndarray) -> str:
        sha = hashlib.sha256(f"{array.dtype}{list(array.shape)}".encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return sha.hexdigest()

    with ThreadPoolExecutor() as pool:  # hashlib releases the interpreter lock
        return dict(zip(arrays, pool.map(digest, arrays.values()), strict=True))


def _digest_of_listing(leaves: Leaves) -> str:
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()


def _place(arrays: dict[str, np.ndarray], abstract: State) -> State:
    """Returns the arrays as leaves of the abstract state's types, under its shardings."""
    plain = jax.tree_util.tree_map_with_path(
        lambda path, _: arrays[jax.tree_util.keystr(path, simple=True, separator=".")],
        trees(abstract),
    )

    def to_device(value: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
        if sharding is None:
            return jnp.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    def place(leaf: Leaf, value: np.ndarray) -> Leaf:
        if _is_key(leaf):
            return jax.random.wrap_key_data(to_device(value, leaf.sharding), dtype=leaf.dtype)
        if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            return to_device(value, leaf.sharding)
        return value if isinstance(leaf, np.ndarray) else type(leaf)(value.item())

    return jax.tree.map(place, abstract, joined_like(abstract, plain))
