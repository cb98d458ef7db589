"""Random seeds: -1 becomes a number that all processes share."""

import secrets

import jax
import numpy as np
from jax.experimental import multihost_utils

RANDOM = -1
SEED_LIMIT = 2**32  # what JAX's keys tell apart


def random_seed() -> int:
    """Returns a random seed, the same in every process; all of them must call it."""
    seed = secrets.randbelow(SEED_LIMIT)
    if jax.process_count() > 1:
        seed = int(multihost_utils.broadcast_one_to_all(np.asarray(seed, np.uint32)))
    return seed
