"""Checks before a run that checkpoints can be written to its folder and read back."""

import contextlib
import pathlib
import shutil

import jax
import numpy as np

from flax_sd.errors import UserError
from flax_sd.system import distributed
from flax_sd.training.checkpoints import Checkpoints

# Text that the checkpoint libraries read as a / or as the beginning of a URL.
MISREAD = ("\\", "gs:/")


def check_name(folder: pathlib.Path) -> None:
    """Checks that checkpoints can be written to a folder of this name, which need not exist.

    Raises:
      UserError: the libraries would misread the name.
    """
    path = f"{folder.resolve()}/"
    if found := [text for text in MISREAD if text in path]:
        raise UserError(
            f"output {folder} holds {' and '.join(found)}, which the library that writes "
            "checkpoints misreads: choose an --output with another name"
        )


def try_checkpoints(folder: pathlib.Path) -> None:
    """Saves a small state beside the future checkpoints, reads it back and removes it.

    Every process calls it together.

    Raises:
      UserError: it cannot be written or read.
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
            f"a checkpoint that was saved in {folder} could not be read again: choose "
            "another --output"
        )
