"""Why a file could not be written, in the user's terms: a full disk is named."""

import contextlib
import errno
import os
import pathlib

from flax_sd.errors import UserError

FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))


def reason(error: OSError, path: pathlib.Path) -> str:
    """What the system says about the path that was to be written."""
    return with_disk(str(error.strerror or error), path)


def with_disk(said: str, path: pathlib.Path) -> str:
    """The words; if they say that a disk is full, that alone, and where it is mounted."""
    full = next((words for words in FULL if words in said), None)
    return said if full is None else f"{full} (the disk mounted at {mount_point(path)})"


def mount_point(path: pathlib.Path) -> pathlib.Path:
    """Where the disk that holds a path, which need not be there, is mounted."""
    real = path.resolve()
    return next((p for p in (real, *real.parents) if os.path.ismount(p)), real)


def write_aside(path: pathlib.Path, text: str) -> None:
    """Writes a text file so that it is there whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, "utf-8")
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise UserError(f"{path} could not be written: {reason(error, path)}") from error
