"""Paths as users write them: a path is a path, never a URL, a pattern or a format."""

import os
import pathlib
import sys
from typing import Any

from flax_sd.errors import UserError


def user_path(value: Any) -> Any:
    """Returns the user's path with `~` and `~name` expanded; an empty text is not changed.

    Nothing else in it has a meaning: `$NAME` was the shell's to replace.

    Raises:
      ValueError: it is empty, cannot be a path, or names a user without a home folder.
    """
    if not isinstance(value, str | os.PathLike):
        return value
    text = os.fspath(value)
    if not text.strip():
        raise ValueError("is empty: name a file or a folder")
    if "\0" in text:
        raise ValueError("holds a NUL, which no path can")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(
            "is not UTF-8, so no file could name it: give it another name"
            if sys.getfilesystemencoding() == "utf-8"
            else "has letters that this locale cannot name: set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
        )
    path = pathlib.Path(text)
    try:
        return path.expanduser() if text.startswith("~") else path
    except RuntimeError as error:
        raise ValueError(
            f"{path.parts[0]} has no home folder here: write the whole path, or ./{text} if the "
            "name begins with ~"
        ) from error


def named(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path that a caller of a Python function gave, read like an option.

    Raises:
      UserError: it is no path; says why.
    """
    try:
        return user_path(path)
    except ValueError as error:
        raise UserError(f"the path {os.fspath(path)!r} {error}") from error


def user_source(value: Any) -> Any:
    """Returns the user's path with `~` expanded; other names, such as a hub id, stay.

    Raises:
      ValueError: as of `user_path`.
    """
    if not isinstance(value, str):
        return value
    path = user_path(value)
    return str(path) if value.startswith("~") else value
