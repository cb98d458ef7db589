"""Writes files completely or not at all, and names the disk if it is full."""

import contextlib
import errno
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import IO, BinaryIO

from flax_sd.errors import UserError

FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))


def os_reason(error: OSError, path: pathlib.Path) -> str:
    """Returns the system's reason why a path could not be written."""
    return with_disk(str(error.strerror or error), path)


def with_disk(said: str, path: pathlib.Path) -> str:
    """Returns the reason; if a disk is full, says so with its mount point."""
    full = next((words for words in FULL if words in said), None)
    return said if full is None else f"{full} (the disk mounted at {mount_point(path)})"


def mount_point(path: pathlib.Path) -> pathlib.Path:
    """Returns the mount point of the disk that holds a path, which may not exist yet."""
    real = path.resolve()
    return next((p for p in (real, *real.parents) if os.path.ismount(p)), real)


@contextlib.contextmanager
def explain_write_errors(path: pathlib.Path) -> Iterator[None]:
    """Converts an OSError of the block, which writes `path`, into a UserError that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {os_reason(error, path)}") from error


@contextlib.contextmanager
def atomic_file(path: pathlib.Path, *, shared: bool = False) -> Iterator[BinaryIO]:
    """Opens a new file that replaces `path` if the block ends without an error.

    Until then it lies beside `path`, as the file's `name` says; after an error nothing of it stays.

    Args:
      shared: whether several processes may write this path at once.

    Raises:
      UserError: it cannot be written.
    """
    aside = path.with_name(f".{uuid.uuid4().hex if shared else path.name}.part")
    with explain_write_errors(path):
        try:
            with aside.open("wb") as file:
                yield file
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise


def write_atomically(path: pathlib.Path, content: bytes | str) -> None:
    """Writes a file, text as UTF-8, completely or not at all; makes its folder.

    Raises:
      UserError: it cannot be written.
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def flush_to_disk(file: IO[str] | IO[bytes]) -> None:
    """Waits until all that was written to an open file is on its disk."""
    file.flush()
    os.fsync(file.fileno())
