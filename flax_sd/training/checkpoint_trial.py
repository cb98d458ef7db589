"""Whether checkpoints come back from a run's folder, whatever its name and its disk are."""

import contextlib
import pathlib
import shutil

import jax
import numpy as np

from flax_sd.errors import UserError
from flax_sd.system import distributed
from flax_sd.training.checkpoints import Checkpoints

# What the libraries of checkpoints take for a / and for the beginning of a URL.
MISREAD = ("\\", "gs:/")


def check_name(folder: pathlib.Path) -> None:
    """Sees that checkpoints can be written into a folder of that name, which need not be there.

    Raises:
      UserError: it would be misread.
    """
    path = f"{folder.resolve()}/"
    if found := [text for text in MISREAD if text in path]:
        raise UserError(
            f"output {folder} holds {' and '.join(found)}, which the library that writes "
            "checkpoints misreads: take an --output of another name"
        )


def try_checkpoints(folder: pathlib.Path) -> None:
    """Saves a small state beside where checkpoints are going to be, reads it and removes it.

    Every process calls it together.

    Raises:
      UserError: it cannot be written, or not be read.
    """
    beside, state = folder.with_name(f".{folder.name}-tried"), {"tried": np.arange(3)}
    with contextlib.closing(Checkpoints(beside, 1)) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        lost = distributed.any_process(checkpoints.restore(1, state) is None)  # all have read then
    if jax.process_index() == 0:
        shutil.rmtree(beside, ignore_errors=True)
    if lost:
        raise UserError(
            f"a checkpoint that was saved in {folder} could not be read again: take another "
            "--output"
        )
