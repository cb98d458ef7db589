"""Batches of a run: pictures and captions in, encoded arrays on the devices out."""

from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from flax_sd import data, sharding
from flax_sd.config import Config
from flax_sd.data.images import Size
from flax_sd.runs.inputs import Inputs

DROPOUT_STREAM = 1  # keeps the draws of caption dropout apart from the data's own


class Fed(NamedTuple):
    """What one step reads.

    Attributes:
      pictures: how many it shows, in all processes; what fills a batch up does not count.
      shape: of the pictures.
    """

    batch: Any
    pictures: int
    shape: Size


def feed(
    config: Config,
    inputs: Inputs,
    mesh: Mesh,
    start_step: int = 0,
    stream: data.Stream | None = None,
) -> Generator[Fed, None, None]:
    """The encoded batches from `start_step` on, for ever; those of step n depend on n alone.

    Args:
      stream: where the pictures come from, if not from the inputs' source.

    Raises:
      UserError: the batch does not divide over the devices, or a picture is gone.
    """
    size, seed = config.train.batch_size, config.seed
    rows = sharding.process_rows(size, mesh)
    if stream is not None:
        batches = stream.batches(start_step, rows=rows)
    else:
        batches = data.batches(inputs.source, size, seed=seed, start_step=start_step, rows=rows)
    for each in batches:
        captions = drop_captions(each.captions, each.samples, config)
        batch = inputs.batch(each._replace(captions=captions))
        yield Fed(batch, each.real, each.shape)


def drop_captions(captions: list[str], samples: np.ndarray, config: Config) -> list[str]:
    """Empties a share of the captions, drawn from (seed, sample number)."""
    share = config.train.caption_dropout
    if not share:
        return captions

    def dropped(sample: int) -> bool:
        stream = np.random.SeedSequence([config.seed, DROPOUT_STREAM, sample])
        return np.random.Generator(np.random.Philox(stream)).random() < share

    return ["" if dropped(n) else text for text, n in zip(captions, samples.tolist(), strict=True)]
