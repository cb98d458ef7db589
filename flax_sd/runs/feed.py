"""Batches of a run: pictures and captions in, encoded arrays on the devices out."""

from collections.abc import Generator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from flax_sd import data, sharding
from flax_sd.config import Config
from flax_sd.runs.inputs import Inputs

DROPOUT_STREAM = 1  # keeps the draws of caption dropout apart from the data's own


def feed(
    config: Config, inputs: Inputs, mesh: Mesh, start_step: int = 0
) -> Generator[Any, None, None]:
    """The encoded batches from `start_step` on, for ever; those of step n depend on n alone.

    Raises:
      UserError: the batch does not divide over the devices, or a picture is gone.
    """
    rows = sharding.process_rows(config.train.batch_size, mesh)
    stream = data.batches(
        inputs.source,
        config.train.batch_size,
        seed=config.seed,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for step, batch in enumerate(stream, start=start_step):
        samples = step * config.train.batch_size + rows
        captions = drop_captions(batch.captions, samples, config)
        yield inputs.batch(batch.pictures, captions)


def drop_captions(captions: list[str], samples: np.ndarray, config: Config) -> list[str]:
    """Empties a share of the captions, drawn from (seed, sample number)."""
    share = config.train.caption_dropout
    if not share:
        return captions

    def dropped(sample: int) -> bool:
        stream = np.random.SeedSequence([config.seed, DROPOUT_STREAM, sample])
        return np.random.Generator(np.random.Philox(stream)).random() < share

    return ["" if dropped(n) else text for text, n in zip(captions, samples.tolist(), strict=True)]
