"""Random seeds: -1 becomes a number, which config.yaml or the images' names keep."""

import pathlib
from collections.abc import Sequence

from flax_sd.generation.gallery import seeds_of
from flax_sd.generation.prompts import Row
from flax_sd.system.seeds import RANDOM, random_seed


def settled_rows(rows: Sequence[Row], folder: pathlib.Path) -> list[Row]:
    """Returns rows with one seed for every -1: the one of their images in the folder, or a new one.

    So the same command continues with the same images.
    """
    there = seeds_of(folder)
    own = [there[i] for i, row in enumerate(rows) if row.seed == RANDOM and i in there]
    seed = own[0] if own else random_seed()
    return [row.model_copy(update={"seed": seed}) if row.seed == RANDOM else row for row in rows]
