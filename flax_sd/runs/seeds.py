"""Seeds that nobody chose: -1 becomes a number, which config.yaml or the pictures' names keep."""

import pathlib
import secrets
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from flax_sd.runs.gallery import seeds_of
from flax_sd.runs.prompts import Row

RANDOM = -1
MOST = 2**32  # what JAX's keys tell apart


def settled_rows(rows: Sequence[Row], folder: pathlib.Path) -> list[Row]:
    """The rows with one number for every -1: that of pictures of theirs in a folder, or a new one.

    So the same command again goes on with the same pictures.
    """
    there = seeds_of(folder)
    own = [there[i] for i, row in enumerate(rows) if row.seed == RANDOM and i in there]
    seed = own[0] if own else drawn()
    return [row.model_copy(update={"seed": seed}) if row.seed == RANDOM else row for row in rows]


def drawn() -> int:
    """A new seed, the same in every process, which call it together."""
    seed = secrets.randbelow(MOST)
    if jax.process_count() > 1:
        seed = int(multihost_utils.broadcast_one_to_all(np.asarray(seed, np.uint32)))
    return seed
