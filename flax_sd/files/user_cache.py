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
    """Returns $XDG_CACHE_HOME/flax_sd or ~/.cache/flax_sd; another folder, with a message, if it is
    not writable."""
    try:
        folder = _caches() / "flax_sd"
    except ValueError as error:
        return _temporary(str(error))
    why = _unwritable(folder)
    return folder if why is None else _temporary(why)


def make_hub_cache() -> None:
    """Gives the hub's libraries a writable cache; call it before they are imported.

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
    """Returns the folder of the user's caches; raises ValueError if there is no home."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return user_path(named)
    try:
        return pathlib.Path.home() / ".cache"
    except RuntimeError as error:
        raise ValueError("this user has no home folder (HOME is not set)") from error


def _unwritable(folder: pathlib.Path) -> str | None:
    """Returns why a folder, which may not exist yet, is not writable; None if it is."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        return f"{folder} cannot be made: {there} is a file"
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        return f"{there} cannot be written: {error.strerror}"
    return None


def _temporary(why: str) -> pathlib.Path:
    """Returns a replacement for a folder that is not writable; says so the first time."""
    said = _among_temporary_ones.cache_info().currsize > 0
    folder = _among_temporary_ones()
    if not said:
        LOGGER.warning("%s: caches go to %s; XDG_CACHE_HOME names a lasting place", why, folder)
    return folder


@functools.cache
def _among_temporary_ones() -> pathlib.Path:
    """Returns a temporary folder of this user, the same for all processes of a run."""
    folder = pathlib.Path(tempfile.gettempdir(), f"flax_sd-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        whose = folder.lstat()
        # Compiled programs are run as they lie there, so no other user may have put them there.
        if whose.st_uid != os.getuid() or whose.st_mode & 0o077 or folder.is_symlink():
            raise PermissionError
    except OSError:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="flax_sd-"))
    return folder
