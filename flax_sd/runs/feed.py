"""Batches of a run: pictures and captions in, encoded arrays on the devices out."""

from collections.abc import Generator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from flax_sd import data, sharding
from flax_sd.config import Config
from flax_sd.losses import Trees
from flax_sd.runs.objective import Objective
from flax_sd.tokenizer import Tokenizer

DROPOUT_STREAM = 1  # keeps the draws of caption dropout apart from the data's own


def feed(
    config: Config,
    pictures: data.Pictures,
    tokenizer: Tokenizer | None,
    objective: Objective,
    frozen: Trees,
    mesh: Mesh,
    start_step: int = 0,
) -> Generator[Any, None, None]:
    """The encoded batches from `start_step` on, for ever; those of step n depend on n alone.

    Raises:
      UserError: the batch does not divide over the devices, or a picture is gone.
    """
    rows = sharding.process_rows(config.train.batch_size, mesh)
    stream = data.batches(
        pictures,
        config.train.batch_size,
        seed=config.seed,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for step, batch in enumerate(stream, start=start_step):
        samples = step * config.train.batch_size + rows
        captions = drop_captions(batch.captions, samples, config)
        pixels, ids = sharding.shard_batch((batch.pixels, tokenize(captions, tokenizer)), mesh)
        yield objective.encode(frozen, pixels, ids)


def tokenize(captions: list[str], tokenizer: Tokenizer | None) -> np.ndarray:
    """Token ids [b, 77]; a column of zeros where nothing reads captions."""
    return np.zeros((len(captions), 1), np.int32) if tokenizer is None else tokenizer(captions)


def drop_captions(captions: list[str], samples: np.ndarray, config: Config) -> list[str]:
    """Empties a share of the captions, drawn from (seed, sample number)."""
    share = config.train.caption_dropout
    if not share:
        return captions

    def dropped(sample: int) -> bool:
        stream = np.random.SeedSequence([config.seed, DROPOUT_STREAM, sample])
        return np.random.Generator(np.random.Philox(stream)).random() < share

    return ["" if dropped(n) else text for text, n in zip(captions, samples.tolist(), strict=True)]
