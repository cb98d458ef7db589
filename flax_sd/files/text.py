"""Text files that users write: UTF-8, or what a byte order mark says."""

import codecs
import json
import pathlib

from flax_sd.errors import UserError, shown
from flax_sd.files.json_values import JsonObject

# The mark of UTF-32 begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: pathlib.Path) -> str:
    """Reads a whole file and decodes it with `decoded`.

    Raises:
      UserError: it cannot be read or decoded; names the line.
    """
    try:
        return decoded(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror}") from error


def decoded(content: bytes, name: object) -> str:
    r"""Returns the text of a file, whose lines end in "\n".

    They may have ended in "\r\n", or in "\r" alone where a file has no other ends of lines.

    Raises:
      UserError: it is no text; names the line.
    """
    encoding = next((MARKS[mark] for mark in MARKS if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        kind = encoding.removesuffix("-sig").upper()
        raise UserError(
            f"{shown(name)} is not {kind} (byte {content[error.start]:#04x} in line {line}): "
            "save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(
            f"{shown(name)} holds NUL bytes (line {line}), as a damaged file does, or UTF-16 "
            "without its mark: save it as UTF-8"
        )
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


def parse_object(line: str) -> JsonObject | str:
    """Returns the JSON object of a line, or what is wrong with the line."""
    try:
        value = json.loads(line, object_pairs_hook=_each_key_once)
    except json.JSONDecodeError as error:
        return f"{error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:  # a key that occurs twice; endless digits
        return str(error)
    return value if isinstance(value, dict) else f"a JSON {type(value).__name__}, not an object"


def _each_key_once(pairs: list[tuple[str, object]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} occurs twice: keep one")
    return found


def read_objects(path: pathlib.Path) -> list[JsonObject]:
    """Returns the objects of one of our files, one a line; skips torn lines, none if there is no
    file.

    Raises:
      UserError: it cannot be read.
    """
    try:
        lines = path.read_text("utf-8").split("\n") if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    parsed = [parse_object(line) for line in lines]
    return [value for value in parsed if isinstance(value, dict)]
