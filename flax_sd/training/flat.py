"""The trained leaves in a few arrays: small ones of a kind joined into one, large ones alone.

A LoRA has hundreds of leaves, most of them small. With an update of each, the bundled base's step
is twice as long a program as with an update of two arrays.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

MAX_JOINED_SIZE = 2**18  # numbers of a leaf; joining larger ones costs memory and saves little
Kind = Callable[[str], object]  # a leaf's dotted path -> equal values for leaves to be joined


class Slot(NamedTuple):
    """The place of a leaf: which array, and where in it; `start` is None for one that is alone."""

    array: int
    start: int | None
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The structure of a `Flat`: its tree, each leaf's place, and each array's first leaf."""

    tree: Any  # jax.tree_util.PyTreeDef, whose declaration is no type
    slots: tuple[Slot, ...]
    names: tuple[str, ...]

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:  # which JAX asks for at each step
        return hash((self.tree, self.slots, self.names))


@jax.tree_util.register_pytree_node_class
class Starts:
    """Where each leaf begins in its joined array, as numbers on the devices.

    As constants of a program, each leaf of one shape would be read by a kernel of its own, and
    compiling these takes longer than all that joining saves.
    """

    def __init__(self, numbers: Sequence[Any]):
        """Takes an int32 for each leaf."""
        self.numbers = tuple(numbers)

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        """Returns the numbers, for JAX."""
        return self.numbers, None

    @classmethod
    def tree_unflatten(cls, _: None, numbers: Sequence[Any]) -> "Starts":
        """Builds it from its numbers, for JAX."""
        return cls(numbers)


@jax.tree_util.register_pytree_with_keys_class
class Flat:
    """A tree of arrays, held in fewer; its own leaves are those, called after their first leaf."""

    def __init__(self, arrays: Sequence[Any], layout: Layout):
        """Takes the arrays that a layout describes, or what JAX puts in their place."""
        self.arrays, self.layout = tuple(arrays), layout

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Layout]:
        """Returns the arrays by name, for JAX."""
        keys = map(jax.tree_util.DictKey, self.layout.names)
        return list(zip(keys, self.arrays, strict=True)), self.layout

    @classmethod
    def tree_unflatten(cls, layout: Layout, arrays: Sequence[Any]) -> "Flat":
        """Builds it from its arrays, for JAX."""
        return cls(arrays, layout)

    @property
    def starts(self) -> Starts:
        """Where each leaf begins; 0 for those that are alone."""
        return Starts([jnp.int32(slot.start or 0) for slot in self.layout.slots])

    def tree(self, starts: Starts | None = None) -> PyTree:
        """Returns the tree: of arrays in NumPy, on devices, or of shapes.

        Args:
          starts: those of this layout, as arguments of the program that asks; None for constants.
        """
        slots = self.layout.slots
        numbers = [slot.start for slot in slots] if starts is None else starts.numbers
        leaves = [
            self.arrays[slot.array] if slot.start is None else self._part(slot, number)
            for slot, number in zip(slots, numbers, strict=True)
        ]
        return jax.tree.unflatten(self.layout.tree, leaves)

    def tree_on_devices(self, starts: Starts) -> PyTree:
        """Returns the tree by one program, if the arrays are on devices."""
        if any(isinstance(array, np.ndarray) for array in self.arrays):
            return self.tree()
        return _tree(self, starts)

    def _part(self, slot: Slot, start: Any) -> Any:
        array, size = self.arrays[slot.array], math.prod(slot.shape)
        if isinstance(array, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(slot.shape, array.dtype, sharding=array.sharding)
        if isinstance(array, np.ndarray):
            return array[start : start + size].reshape(slot.shape)
        return jax.lax.dynamic_slice(array, (start,), (size,)).reshape(slot.shape)

    def with_tree(self, tree: PyTree) -> "Flat":
        """Returns the leaves of another tree of this structure, joined as these are."""
        parts: list[list[Any]] = [[] for _ in self.arrays]
        for slot, leaf in zip(self.layout.slots, self.layout.tree.flatten_up_to(tree), strict=True):
            parts[slot.array].append(leaf if slot.start is None else leaf.reshape(-1))
        return Flat([part[0] if len(part) == 1 else _join(part) for part in parts], self.layout)


def flatten(tree: PyTree, kind: Kind = lambda path: "") -> Flat:
    """Joins the small leaves that are of one kind and dtype.

    Args:
      kind: leaves of different kinds stay apart.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    groups: dict[object, list[int]] = {}
    for i, (path, leaf) in enumerate(paths):
        name = dotted(path)
        alone = leaf.size > MAX_JOINED_SIZE
        groups.setdefault(i if alone else (kind(name), str(leaf.dtype)), []).append(i)
    slots: dict[int, Slot] = {}
    for array, members in enumerate(groups.values()):
        sizes = [math.prod(paths[i][1].shape) for i in members]
        starts = [None] if len(members) == 1 else np.cumsum([0, *sizes[:-1]]).tolist()
        slots |= {
            i: Slot(array, start, tuple(paths[i][1].shape))
            for i, start in zip(members, starts, strict=True)
        }
    names = tuple(dotted(paths[members[0]][0]) for members in groups.values())
    layout = Layout(structure, tuple(slots[i] for i in range(len(paths))), names)
    return Flat([None] * len(groups), layout).with_tree(tree)


def trees(state: PyTree) -> PyTree:
    """Returns a state with the tree of each `Flat` in it, and without `Starts`."""

    def plain(x: Any) -> Any:
        if isinstance(x, Starts):
            return None
        return x.tree() if isinstance(x, Flat) else x

    return jax.tree.map(plain, state, is_leaf=_is_own)


def joined_like(state: PyTree, plain: PyTree) -> PyTree:
    """Returns what `trees` made of `state`, or the like of it, joined again as `state` is."""

    def joined(x: Any, tree: Any) -> Any:
        if isinstance(x, Starts):
            return Starts([np.asarray(number) for number in x.numbers])
        return x.with_tree(tree) if isinstance(x, Flat) else tree

    return jax.tree.map(joined, state, plain, is_leaf=_is_own)


def dotted(path: jax.tree_util.KeyPath) -> str:
    """Returns a leaf's path, as unet.conv_in.kernel, without flax's .value at its end."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def _is_own(x: object) -> bool:
    return isinstance(x, Flat | Starts)


def _join(parts: Sequence[Any]) -> Any:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return jnp.concatenate(parts)


_tree = jax.jit(Flat.tree)
