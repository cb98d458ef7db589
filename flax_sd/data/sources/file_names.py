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
    """Tells whether a written path leaves its folder; a link inside it may lead anywhere."""
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
    """Tells whether a file exists; a name that is too long does not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def has_half_pair(text: str) -> bool:
    """Tells whether a text holds half a surrogate pair, which cannot be written."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _is_of_bytes(name: str) -> bool:
    """Tells whether the system can have such a name: one of bytes that are not UTF-8."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True
