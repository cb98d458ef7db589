"""The names of files as users write them: judged, and found."""

import os
import pathlib
import unicodedata


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
    """Returns the path of a name inside a folder.

    Where it is not there, it may be with / for each \\, or with é as one character or two.
    """
    written = dict.fromkeys((name, name.replace("\\", "/")))
    forms = [unicodedata.normalize(form, each) for form in ("NFC", "NFD") for each in written]
    paths = [folder / os.path.normpath(each) for each in (*written, *forms)]
    return next(filter(is_there, paths), paths[0])


def composed(path: pathlib.Path) -> pathlib.Path:
    """Returns a path whose name has é as one character: a Mac may have saved it as two."""
    return path.with_name(unicodedata.normalize("NFC", path.name)) if path.name else path


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
