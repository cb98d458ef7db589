"""The loss of images at fixed timesteps and noise, so that models can be compared.

Each image is evaluated once in each tenth of the timesteps. Its timesteps and noise depend on its
place in the set and on the number of images, not on batches or devices.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float64, Int, PyTree

from flax_sd.data import Batch, group_indices
from flax_sd.data.batches import stack
from flax_sd.system import sharding
from flax_sd.system.program import Program, Structure, divided, jit, remembered
from flax_sd.training.inputs.batches import Inputs
from flax_sd.training.losses import Loss, Trees

EVALUATION_SEED = 20_000  # of timesteps and noise; any number, but the same for every run
BANDS = 10  # equal parts of the timesteps
ROWS = 8  # images in a batch


class Evaluator:
    """Images, encoded once, with fixed timesteps and noise for their losses.

    Attributes:
      bands: first and last timestep of each band; empty if the loss has no timesteps.
    """

    def __init__(self, inputs: Inputs, loss: Loss, mesh: Mesh):
        """Loads all images onto the devices, each with its first caption.

        Raises:
          UserError: they cannot be read.
        """
        self._count = len(inputs.source)
        rows = mesh.size * -(-min(ROWS, self._count) // mesh.size)
        mine = sharding.process_rows(rows, mesh)
        loaded = [inputs.source.load(i, seed=0, sample=i) for i in range(self._count)]
        self._batches = [
            (_batch(inputs, loaded, padded[mine]), padded, valid)
            for group in group_indices(inputs.source.shapes)
            for padded, valid in _chunks(np.array(group), rows)
        ]
        total = loss.timesteps
        self.bands = [] if total is None else band_edges(total)
        self._timesteps = fixed_timesteps(self._count, 1 if total is None else total)
        self._loss = _fixed(loss, mesh)

    def losses(self, params: Trees, frozen: Trees) -> Float64[np.ndarray, "n bands"]:
        """Returns each image's loss in each band; in one band if the loss has no timesteps."""
        bands = max(1, len(self.bands))
        values = np.zeros((self._count, bands))
        for batch, rows, valid in self._batches:
            for band in range(bands):
                t = self._timesteps[rows, band]
                each = self._loss(params, frozen, batch, rows.astype(np.int32), np.int32(band), t)
                values[rows[:valid], band] = np.asarray(each)[:valid]
        return values


def band_edges(timesteps: int) -> list[tuple[int, int]]:
    """Returns the first and the last timestep of each band."""
    edges = [band * timesteps // BANDS for band in range(BANDS + 1)]
    return [(first, after - 1) for first, after in zip(edges, edges[1:], strict=False)]


def fixed_timesteps(count: int, timesteps: int) -> Int[np.ndarray, "n bands"]:
    """Returns one timestep for each image in each band.

    They are stratified: each of `count` equal parts of a band has one timestep, at a random place,
    and parts are assigned to images at random.
    """
    places = np.empty((count, BANDS))
    for band in range(BANDS):
        bits = np.random.Philox(key=[EVALUATION_SEED, band]).random_raw(2 * count)
        part = np.argsort(np.argsort(bits[:count]))
        within = (bits[count:] >> np.uint64(11)) * 2.0**-53
        places[:, band] = (band + (part + within) / count) / BANDS
    return np.minimum(places * timesteps, timesteps - 1).astype(np.int32)


def _batch(inputs: Inputs, loaded: Sequence[Any], rows: np.ndarray) -> Any:
    """Returns this process's `rows` as a batch."""
    batch = Batch(
        images=stack([loaded[i] for i in rows]),
        captions=[inputs.source.captions(i)[0] for i in rows.tolist()],
        indices=rows,
        samples=rows,
        weight=None,
        real=len(rows),
        shape=inputs.source.shapes[rows[0]],
        time_ids=np.stack([inputs.source.time_ids(i, seed=0, sample=i) for i in rows.tolist()]),
    )
    return inputs.batch(batch)


def _chunks(rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields batches of rows, the last one padded, with the number of rows before the padding."""
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield np.concatenate([part, np.repeat(part[:1], size - len(part))]), len(part)


def _fixed(loss: Loss, mesh: Mesh) -> Program:
    """Builds the jitted loss of each row, with draws that depend on image and band alone."""
    numbers, structure = divided(loss)
    return _fixed_of(structure, mesh).with_first(numbers, mesh)


@remembered
def _fixed_of(structure: Structure, mesh: Mesh) -> Program:
    """Builds it for a loss of that structure, with the numbers as its first argument."""

    def draw(loss: Loss, key: jax.Array, row: PyTree) -> PyTree:
        draws = loss.draw(key, jax.tree.map(lambda leaf: leaf[None], row))
        return jax.tree.map(lambda leaf: leaf[0], draws)

    def value(
        numbers: Sequence[jax.Array],
        params: Trees,
        frozen: Trees,
        batch: PyTree,
        images: Int[Array, " b"],
        band: Int[Array, ""],
        t: Int[Array, " b"],
    ) -> Float[Array, " b"]:
        loss = structure.filled(numbers)
        key = jax.random.fold_in(jax.random.key(EVALUATION_SEED), band)
        keys = jax.vmap(lambda image: jax.random.fold_in(key, image))(images)
        draws = jax.vmap(functools.partial(draw, loss))(keys, batch)
        if loss.timesteps is not None:
            draws = draws._replace(timesteps=t)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return loss.loss(params, frozen, batch, draws)

    return jit(value, out_shardings=sharding.replicated(mesh))
