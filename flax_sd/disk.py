"""Why a file could not be written, in the user's terms: a full disk is named."""

import errno
import os
import pathlib

FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))


def reason(error: OSError, path: pathlib.Path) -> str:
    """What the system says about the path that was to be written."""
    return with_disk(str(error.strerror or error), path)


def with_disk(said: str, path: pathlib.Path) -> str:
    """The words, and if they say that the disk is full, where it is mounted."""
    full = any(words in said for words in FULL)
    return f"{said} (the disk mounted at {mount_point(path)})" if full else said


def mount_point(path: pathlib.Path) -> pathlib.Path:
    """Where the disk that holds a path, which need not be there, is mounted."""
    absolute = path.absolute()
    return next((p for p in (absolute, *absolute.parents) if os.path.ismount(p)), absolute)
