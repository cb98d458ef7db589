"""Where a model may be written: what is replaced, and what never is."""

import pathlib

from flax_sd.errors import UserError, some
from flax_sd.files.atomic import explain_write_errors
from flax_sd.weights.diffusers_folder import others_of, read_json
from flax_sd.weights.hub import PICKLES
from flax_sd.weights.ldm.parts import UNET
from flax_sd.weights.safetensors import TensorFile

MARK = "flax_sd_export"  # in exported files, so that a later export may replace them
SINGLE = ".safetensors"  # how the name of a single file ends


def check_name(path: pathlib.Path) -> None:
    """Checks that a model can be written under a name.

    Raises:
      UserError: the name is that of a pickle.
    """
    if path.suffix in PICKLES:
        raise UserError(f"{path}: pickles are not written; name a folder, or a file as x{SINGLE}")


def check_replaceable(path: pathlib.Path) -> None:
    """Checks that a single file can be written: nothing is there, or another such file.

    Raises:
      UserError: something else is.
    """
    if path.exists() and not _is_model(path):
        raise UserError(f"{path} exists and is not a checkpoint in one file; name a new file")


def _is_model(path: pathlib.Path) -> bool:
    try:
        return any(name.startswith(UNET) for name in TensorFile(path))
    except UserError:
        return False


def check_free(path: pathlib.Path, option: str) -> None:
    """Checks that nothing is at a path, an empty folder, or an earlier export.

    Args:
      option: the option that names it, for the message.

    Raises:
      UserError: something else is.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not _is_export(path):
        raise UserError(
            f"{path} exists and is not an earlier export: choose another {option}, or delete it"
        )
    if path.is_dir() and (others := others_of(path)):
        raise UserError(
            f"{path} is an earlier export, and holds {some([other.name for other in others])} "
            f"besides: choose another {option}, or move that away"
        )


def _is_export(path: pathlib.Path) -> bool:
    index = path / "model_index.json"
    try:
        if path.is_dir():
            return index.is_file() and f"_{MARK}" in read_json(index)
        return MARK in TensorFile(path).metadata
    except UserError:
        return False


def make_parents(path: pathlib.Path) -> None:
    """Makes the folder that a path is in.

    Raises:
      UserError: it cannot be made.
    """
    with explain_write_errors(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
