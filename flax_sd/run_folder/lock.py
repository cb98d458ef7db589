"""The lock of a run's folder: a second run is refused, and told which process has it."""

import contextlib
import json
import os
import pathlib
import platform
import time
from collections.abc import Iterator

import filelock
import jax

from flax_sd.errors import UserError
from flax_sd.files.atomic import os_reason
from flax_sd.run_folder.layout import LOCK, OWNER
from flax_sd.system import distributed


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Creates and locks a run's folder; the system unlocks it however the process ends.

    Every process of a run calls it together; the first one holds the folder for all.

    Raises:
      UserError: another run has it.
    """
    lock, problem = filelock.FileLock(folder / LOCK, blocking=False), None
    if jax.process_index() == 0:
        problem = _take(lock, folder)
    _raise_together(problem, folder)
    try:
        yield
    finally:
        if lock.is_locked:
            (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def refuse_if_held(folder: pathlib.Path) -> None:
    """Checks early that no other run has the folder, which is not created.

    Every process of a run calls it together.

    Raises:
      UserError: another run has it.
    """
    lock, problem = filelock.FileLock(folder / LOCK, blocking=False), None
    if jax.process_index() == 0 and (folder / LOCK).exists():
        problem = _take(lock, folder)
        if lock.is_locked:
            (folder / OWNER).unlink(missing_ok=True)
        lock.release()
    _raise_together(problem, folder)


def _raise_together(problem: str | None, folder: pathlib.Path) -> None:
    if distributed.any_process(problem is not None):
        raise UserError(problem or f"another run has {folder}")


def _take(lock: filelock.BaseFileLock, folder: pathlib.Path) -> str | None:
    """Takes the lock and writes its owner; returns the problem if another run has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        return (
            f"another run has {folder}{_owner(folder)}: wait for it, stop it, or choose another "
            "--output"
        )
    except NotImplementedError:  # a file system without locks, as some network drives are
        return None
    except OSError as error:
        return f"cannot write {folder}: {os_reason(error, folder)}"
    owner = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%F %T")}
    with contextlib.suppress(OSError):  # the run itself will report a full disk
        (folder / OWNER).write_text(json.dumps(owner), "utf-8")
    return None


def _owner(folder: pathlib.Path) -> str:
    try:
        owner = json.loads((folder / OWNER).read_text("utf-8"))
        return f" (process {owner['process']} on {owner['host']}, since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
