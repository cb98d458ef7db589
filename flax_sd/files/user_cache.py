"""The folder in which commands keep what they can make again, and that of the hub's libraries."""

import functools
import logging
import os
import pathlib
import tempfile

from flax_sd.files.paths import user_path

LOGGER = logging.getLogger("flax_sd")
HUB = ("HF_HOME", "HF_DATASETS_CACHE")  # the libraries' own variables


def user_cache() -> pathlib.Path:
    """$XDG_CACHE_HOME/flax_sd or ~/.cache/flax_sd; if it cannot be written, one that can, said."""
    try:
        folder = _caches() / "flax_sd"
    except ValueError as error:
        return _temporary(str(error))
    why = _unwritable(folder)
    return folder if why is None else _temporary(why)


def make_hub_cache() -> None:
    """Sees that the hub's libraries find a cache that can be written; before they are imported.

    Downloads are read from a folder that cannot be written too, so only one that is not there and
    cannot be made is replaced. `datasets` writes to its own even to read a file of this disk.
    """
    named = os.environ.get(HUB[0])
    try:
        home = user_path(named) if named else _caches() / "huggingface"
    except ValueError as error:
        os.environ[HUB[0]] = str(_temporary(str(error)) / "huggingface")
        return
    if why := _unwritable(home / "datasets"):
        place = _temporary(f"{HUB[0]}: {why}" if named else why) / "huggingface"
        if not home.is_dir():
            os.environ[HUB[0]] = str(place)
        os.environ.setdefault(HUB[1], str(place / "datasets"))


def _caches() -> pathlib.Path:
    """The folder of the user's caches; raises ValueError where there is no home."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return user_path(named)
    try:
        return pathlib.Path.home() / ".cache"
    except RuntimeError as error:
        raise ValueError("this user has no home folder (HOME is not set)") from error


def _unwritable(folder: pathlib.Path) -> str | None:
    """Why nothing can be written into a folder, which need not be there yet; None if it can."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        return f"{folder} cannot be made: {there} is a file"
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        return f"{there} cannot be written: {error.strerror}"
    return None


def _temporary(why: str) -> pathlib.Path:
    """The folder in place of one that cannot be written; the first time, that is said."""
    said = _among_temporary_ones.cache_info().currsize > 0
    folder = _among_temporary_ones()
    if not said:
        LOGGER.warning("%s: caches go to %s; XDG_CACHE_HOME names a lasting place", why, folder)
    return folder


@functools.cache
def _among_temporary_ones() -> pathlib.Path:
    """A temporary folder of this user's, the same for all processes of a run."""
    folder = pathlib.Path(tempfile.gettempdir(), f"flax_sd-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        whose = folder.lstat()
        # Compiled programs are run as they lie there, so nobody else may have put them there.
        if whose.st_uid != os.getuid() or whose.st_mode & 0o077 or folder.is_symlink():
            raise PermissionError
    except OSError:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="flax_sd-"))
    return folder
