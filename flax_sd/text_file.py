"""Text files that users write: UTF-8, with or without a byte order mark."""

import json
import pathlib
from typing import Any

from flax_sd.errors import UserError


def read_text(path: pathlib.Path) -> str:
    """Reads a whole file.

    Raises:
      UserError: it cannot be read or is not UTF-8; names the line.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path} is not UTF-8 (byte {error.object[error.start]:#04x} in line {line}): "
            "save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def parse_object(line: str) -> dict[str, Any] | str:
    """The JSON object of a line, or what is wrong with the line."""
    try:
        value = json.loads(line, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        return f"{error.msg} at column {error.colno}"
    except (_Twice, RecursionError) as error:
        return str(error)
    return value if isinstance(value, dict) else f"a JSON {type(value).__name__}, not an object"


class _Twice(ValueError):
    """A key that an object has twice, of which one would be dropped."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        several = [json.dumps(name) for name in values if names.count(name) > 1]
        raise _Twice(f"{', '.join(several)} is there twice")
    return values


def read_objects(path: pathlib.Path) -> list[dict[str, Any]]:
    """The objects of a file of our own, one a line; none if it is not there, and no torn ones.

    Raises:
      UserError: it cannot be read.
    """
    try:
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    parsed = [parse_object(line) for line in lines]
    return [value for value in parsed if isinstance(value, dict)]
