"""The loss of pictures at fixed timesteps and noise, so that two models compare.

Each picture is seen once in each tenth of the timesteps. What is drawn for it is a function of its
place in the set and of how many pictures there are, whatever the batches and the devices.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float64, Int

from flax_sd.data import Batch, alike
from flax_sd.data.batches import stack
from flax_sd.system import sharding
from flax_sd.system.compiler import jit, remembered
from flax_sd.training.inputs.batches import Inputs
from flax_sd.training.losses import Loss, Trees

EVALUATION_SEED = 20_000  # of the fixed draws; any number, but the same for every run
BANDS = 10  # equal parts of the timesteps
ROWS = 8  # pictures at once


class Evaluator:
    """Pictures, encoded once, with the draws at which their loss is measured.

    Attributes:
      bands: first and last timestep of each; none where the loss has no timesteps.
    """

    def __init__(self, inputs: Inputs, loss: Loss, mesh: Mesh):
        """Puts all of the pictures on the devices, each with its first caption.

        Raises:
          UserError: they cannot be read.
        """
        self._count = len(inputs.source)
        rows = mesh.size * -(-min(ROWS, self._count) // mesh.size)
        mine = sharding.process_rows(rows, mesh)
        loaded = [inputs.source.load(i, seed=0, sample=i) for i in range(self._count)]
        self._batches = [
            (_batch(inputs, loaded, padded[mine]), padded, valid)
            for group in alike(inputs.source.shapes)
            for padded, valid in _chunks(np.array(group), rows)
        ]
        total = loss.timesteps
        self.bands = [] if total is None else band_edges(total)
        self._timesteps = fixed_timesteps(self._count, 1 if total is None else total)
        self._loss = _fixed(loss, mesh)

    def losses(self, params: Trees, frozen: Trees) -> Float64[np.ndarray, "n bands"]:
        """Each picture's loss in each band; in one, if the loss has no timesteps."""
        bands = max(1, len(self.bands))
        values = np.zeros((self._count, bands))
        for batch, rows, valid in self._batches:
            for band in range(bands):
                t = self._timesteps[rows, band]
                each = self._loss(params, frozen, batch, rows.astype(np.int32), np.int32(band), t)
                values[rows[:valid], band] = np.asarray(each)[:valid]
        return values


def band_edges(timesteps: int) -> list[tuple[int, int]]:
    """The first and the last timestep of each band."""
    edges = [band * timesteps // BANDS for band in range(BANDS + 1)]
    return [(first, after - 1) for first, after in zip(edges, edges[1:], strict=False)]


def fixed_timesteps(count: int, timesteps: int) -> Int[np.ndarray, "n bands"]:
    """One timestep for each picture in each band.

    Those of a band are spread over it: each of its `count` equal parts has one, drawn within it,
    and which picture has which part is drawn too.
    """
    places = np.empty((count, BANDS))
    for band in range(BANDS):
        bits = np.random.Philox(key=[EVALUATION_SEED, band]).random_raw(2 * count)
        part = np.argsort(np.argsort(bits[:count]))
        within = (bits[count:] >> np.uint64(11)) * 2.0**-53
        places[:, band] = (band + (part + within) / count) / BANDS
    return np.minimum(places * timesteps, timesteps - 1).astype(np.int32)


def _batch(inputs: Inputs, loaded: Sequence[Any], rows: np.ndarray) -> Any:
    """These pictures as a batch; `rows` are this process's."""
    batch = Batch(
        pictures=stack([loaded[i] for i in rows]),
        captions=[inputs.source.captions(i)[0] for i in rows.tolist()],
        indices=rows,
        samples=rows,
        weight=None,
        real=len(rows),
        shape=inputs.source.shapes[rows[0]],
    )
    return inputs.batch(batch)


def _chunks(rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Rows in batches of one size, the last padded; how many of each are no padding."""
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield np.concatenate([part, np.repeat(part[:1], size - len(part))]), len(part)


@remembered
def _fixed(loss: Loss, mesh: Mesh) -> Any:
    """Jitted: each row's loss, with draws that depend on the picture and the band alone."""

    def draw(key: jax.Array, row: Any) -> Any:
        draws = loss.draw(key, jax.tree.map(lambda leaf: leaf[None], row))
        return jax.tree.map(lambda leaf: leaf[0], draws)

    def value(
        params: Trees,
        frozen: Trees,
        batch: Any,
        pictures: Int[Array, " b"],
        band: Int[Array, ""],
        t: Int[Array, " b"],
    ) -> Float[Array, " b"]:
        key = jax.random.fold_in(jax.random.key(EVALUATION_SEED), band)
        keys = jax.vmap(lambda picture: jax.random.fold_in(key, picture))(pictures)
        draws = jax.vmap(draw)(keys, batch)
        if loss.timesteps is not None:
            draws = draws._replace(timesteps=t)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return loss.loss(params, frozen, batch, draws)

    return jit(value, out_shardings=sharding.replicated(mesh))
