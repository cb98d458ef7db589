"""The names of files as users write them: judged, and found."""

import os
import pathlib


def why_no_name(name: str) -> str | None:
    """Returns why no file can have a name, or None."""
    if "\0" in name:
        return "its name holds a NUL character, which no file's name does"
    if has_half_pair(name) and not _is_of_bytes(name):
        return "its name holds half a surrogate pair, which is no character"
    return None


def leaves(name: str) -> bool:
    """Judges the path as written: a link inside the folder may lead where the user likes."""
    climbs = os.path.normpath(name.replace("\\", "/")).split("/")[0] == ".."
    return climbs or pathlib.PureWindowsPath(name).anchor != ""  # an anchor: /, C: or a share


def find(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path of a name inside a folder; where it is not there, with / for each \\."""
    path = folder / os.path.normpath(name)
    if "\\" in name and not is_there(path):
        other = folder / os.path.normpath(name.replace("\\", "/"))
        return other if is_there(other) else path
    return path


def is_there(path: pathlib.Path) -> bool:
    """Whether there is a file; a name too long for one is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def has_half_pair(text: str) -> bool:
    """Whether a text holds half a surrogate pair, which is no character and cannot be written."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _is_of_bytes(name: str) -> bool:
    """Whether the system has such a name, whose bytes are no UTF-8."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True
