"""The placement of arrays: the mesh of devices, and what is replicated or divided."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

from flax_sd.errors import UserError

AXES = ("data", "fsdp")
BATCH = PartitionSpec(AXES)  # the batch axis is divided over both
MIN_DIVIDED_SIZE = 2**16  # elements; dividing a smaller leaf saves nothing and costs a gather


def make_mesh(data: int, fsdp: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges the devices (all of them, or those given) as data × fsdp.

    Args:
      data: copies of the model that divide the batch; -1 takes the devices left by fsdp.
      fsdp: devices that share one copy of the frozen weights.
      devices: all of them if None.

    Raises:
      UserError: the product is not the number of devices.
    """
    count = len(jax.devices() if devices is None else devices)
    if fsdp < 1 or (data < 1 and data != -1):
        raise UserError(
            f"mesh.data is {data} and mesh.fsdp is {fsdp}; both count devices (data may be -1: "
            "all that fsdp leaves)"
        )
    if data == -1 and count % fsdp:
        raise UserError(f"mesh.fsdp is {fsdp}, which does not divide the {count} devices")
    if data != -1 and data * fsdp != count:
        raise UserError(
            f"mesh.data {data} x mesh.fsdp {fsdp} = {data * fsdp}, but there are {count} devices; "
            "mesh.data -1 takes all that fsdp leaves"
        )
    shape = (count // fsdp if data == -1 else data, fsdp)
    return jax.make_mesh(shape, AXES, (AxisType.Auto,) * 2, devices=devices)


def mesh_of(array: jax.Array) -> Mesh:
    """Returns the mesh of an array's sharding; that of its one device if it is not divided."""
    if isinstance(array.sharding, NamedSharding) and isinstance(array.sharding.mesh, Mesh):
        return array.sharding.mesh
    return make_mesh(1, 1, list(array.devices()))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Copies every leaf to every device; the result may be donated, the source stays valid."""
    return jax.tree.map(lambda leaf: put(leaf, replicated(mesh)), tree)


def put(leaf: jax.Array | np.ndarray | float, sharding: NamedSharding) -> jax.Array:
    """Returns a copy, under a sharding, of a leaf that is equal in every process.

    It goes through a host copy of its own: `jax.device_put` may share the source's memory, and
    donating its result would delete the source (even with `may_alias=False`).
    """
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        bits = put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(bits, impl=str(jax.random.key_impl(leaf)))
    host = np.array(leaf, dtype=jnp.result_type(leaf))
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def fsdp_sharding(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Divides the largest axis that "fsdp" divides; small leaves and others are replicated."""
    parts = mesh.shape["fsdp"]
    axes = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not axes or math.prod(shape) < MIN_DIVIDED_SIZE:
        return replicated(mesh)
    largest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))


def shard_frozen(tree: PyTree, mesh: Mesh) -> PyTree:
    """Places frozen weights by `fsdp_sharding`.

    On one process this may share the source's memory, which halves the peak: never donate it.
    """

    def place(leaf: jax.Array) -> jax.Array:
        sharding = fsdp_sharding(leaf.shape, mesh)
        return put(leaf, sharding) if jax.process_count() > 1 else jax.device_put(leaf, sharding)

    return jax.tree.map(place, tree)


def process_rows(batch_size: int, mesh: Mesh) -> Int[np.ndarray, " rows"]:
    """Returns the rows of a global batch that this process's devices hold, in order.

    Raises:
      UserError: the batch cannot be divided over the devices.
    """
    if batch_size % mesh.size:
        lower = batch_size // mesh.size * mesh.size
        near = f"{lower} or {lower + mesh.size}" if lower else str(mesh.size)
        raise UserError(
            f"a batch of {batch_size} does not divide over {mesh.size} devices; near it: {near}"
        )
    mine = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_size,))
    rows = [np.arange(batch_size)[index] for index in mine.values() if index is not None]
    return np.unique(np.concatenate(rows))


def shard_batch(tree: PyTree, mesh: Mesh) -> PyTree:
    """Builds global arrays from the rows that each process holds (`process_rows`), divided by
    row."""
    sharding = NamedSharding(mesh, BATCH)
    return jax.tree.map(
        lambda local: jax.make_array_from_process_local_data(sharding, np.asarray(local)), tree
    )
