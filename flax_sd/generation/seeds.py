"""Seeds that nobody chose: -1 becomes a number, which config.yaml or the pictures' names keep."""

import pathlib
from collections.abc import Sequence

from flax_sd.generation.gallery import seeds_of
from flax_sd.generation.prompts import Row
from flax_sd.system.seeds import RANDOM, drawn


def settled_rows(rows: Sequence[Row], folder: pathlib.Path) -> list[Row]:
    """The rows with one number for every -1: that of pictures of theirs in a folder, or a new one.

    So the same command again goes on with the same pictures.
    """
    there = seeds_of(folder)
    own = [there[i] for i, row in enumerate(rows) if row.seed == RANDOM and i in there]
    seed = own[0] if own else drawn()
    return [row.model_copy(update={"seed": seed}) if row.seed == RANDOM else row for row in rows]
