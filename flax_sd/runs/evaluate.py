"""The loss on held-out pictures, at fixed timesteps and noise, so that two models compare."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flax_sd import sharding
from flax_sd.compiler import jit
from flax_sd.losses import Loss, Trees
from flax_sd.runs.inputs import Inputs

EVALUATION_SEED = 20_000  # of the fixed noise; any number, but the same for every run
DRAWS_PER_PICTURE = 4


class HeldOut:
    """Held-out pictures, encoded once, with the draws at which their loss is measured."""

    def __init__(self, inputs: Inputs, loss: Loss, mesh: Mesh):
        """Puts all of the pictures on the devices, each with its first caption.

        Raises:
          UserError: they cannot be read.
        """
        self.count = len(inputs.source)
        self._rows = mesh.size * -(-min(8, self.count) // mesh.size)
        mine = sharding.process_rows(self._rows, mesh)
        self._batches = [
            (_load(inputs, (rows + rows[:1] * (self._rows - len(rows))), mine), len(rows))
            for rows in _chunks(self.count, self._rows)
        ]
        self._loss = jit(_loss_of_batch(loss, mesh))

    def loss(self, params: Trees, frozen: Trees) -> float:
        """The mean over pictures and draws, in float32."""
        total = 0.0
        for number, (batch, valid) in enumerate(self._batches):
            for draw in range(DRAWS_PER_PICTURE):
                key = jax.random.fold_in(jax.random.key(EVALUATION_SEED), number)
                total += float(
                    self._loss(params, frozen, batch, jax.random.fold_in(key, draw), valid)
                )
        return total / (self.count * DRAWS_PER_PICTURE)


def _load(inputs: Inputs, rows: list[int], mine: np.ndarray) -> Any:
    """This process's rows of a batch, on its devices."""
    own = [rows[place] for place in mine]
    pictures = np.stack([inputs.source.load(i, seed=0, sample=i) for i in own])
    return inputs.batch(pictures, [inputs.source.captions(i)[0] for i in own])


def _chunks(count: int, size: int) -> Iterator[list[int]]:
    for start in range(0, count, size):
        yield list(range(start, min(start + size, count)))


def _loss_of_batch(loss: Loss, mesh: Mesh) -> Any:
    """The summed loss of a batch's first `valid` pictures."""

    def value(
        params: Trees, frozen: Trees, batch: Any, key: jax.Array, valid: jax.Array
    ) -> jax.Array:
        draws = loss.draw(key, batch)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            each = loss.loss(params, frozen, batch, draws)
        return jnp.sum(jnp.where(jnp.arange(len(each)) < valid, each, 0))  # the rest is padding

    return value
