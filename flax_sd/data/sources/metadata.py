"""The images and captions that a metadata.jsonl or metadata.csv names."""

import csv
import json
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from flax_sd.data.sources.account import Account
from flax_sd.data.sources.file_names import find, is_there, leaves, why_no_name
from flax_sd.data.sources.file_types import METADATA
from flax_sd.data.sources.records import caption_tuple
from flax_sd.errors import UserError, listed, shown, some
from flax_sd.files.json_values import JsonObject
from flax_sd.files.text import parse_object, read_text

URLS = ("http://", "https://", "s3://", "gs://", "hf://", "ftp://", "data:")
DOWNLOAD = "download the images first, for instance with img2dataset"


class Row(NamedTuple):
    """A line of a metadata file, and what is wrong with it."""

    line: int
    values: JsonObject
    wrong: str | None = None


def files(account: Account) -> list[pathlib.Path]:
    """Returns the metadata files of a folder: its own, or those of folders below it.

    Raises:
      UserError: a folder holds two of them.
    """
    found = [path for path in account.files if path.name.lower() in METADATA]
    holders = {path.parent for path in found}
    chosen = [path for path in found if not holders.intersection(path.parent.parents)]
    for path, other in zip(chosen, chosen[1:], strict=False):
        if path.parent == other.parent:
            raise UserError(
                f"{shown(path.parent)} holds both {other.name} and {path.name}: keep one of them"
            )
    return chosen


def take(account: Account, path: pathlib.Path, caption_column: str) -> None:
    """Records all images that a metadata file names.

    Raises:
      UserError: it cannot be read, or does not say which images it means.
    """
    account.use(path)
    rows = _jsonl_rows(path) if path.suffix.lower() == ".jsonl" else _csv_rows(path, caption_column)
    if not rows:
        raise UserError(f"{shown(path)} names no image: write a row with file_name for each")
    if any(row.values for row in rows):
        _check_keys(path, rows, caption_column)
    lost = {row.line: why for row in rows if (why := _why_no_row(row))}
    if len(lost) == len(rows):
        head = f"{shown(path)} names no image: each row needs a file_name inside the folder:"
        raise UserError(listed(head, [f"line {line}: {why}" for line, why in lost.items()]))
    named = [row for row in rows if row.line not in lost]
    if all(is_url(row.values["file_name"]) for row in named):
        raise UserError(f"{shown(path)} has URLs for file_name: {DOWNLOAD}")
    for row in named:
        _take_row(account, path, row, caption_column)
    for line, why in lost.items():
        account.leave_out(pathlib.Path(), why, f"line {line} of {account.name(path)}")


def is_url(name: str) -> bool:
    """Tells whether a name is a URL."""
    return name.lower().startswith(URLS)


def _take_row(account: Account, metadata: pathlib.Path, row: Row, caption_column: str) -> None:
    written = row.values["file_name"]
    path = find(metadata.parent, written)
    name = written
    if metadata.parent != account.folder and not is_url(written):
        name = f"{metadata.parent.relative_to(account.folder).as_posix()}/{written}"
    captions = caption_tuple(row.values.get(caption_column))
    where = f"line {row.line} of {metadata.name}"
    url = f"a URL: {DOWNLOAD}" if is_url(written) else None
    if why := row.wrong or url or why_no_name(written) or _why_no_file(path):
        account.leave_out(path, f"{where}: {why}", shown(name))
    elif isinstance(captions, str):
        missing = caption_column not in row.values
        why = f"has no {caption_column!r}" if missing else f"holds as {caption_column!r} {captions}"
        account.leave_out(path, f"{where} {why}", shown(name))
    else:
        account.add(path, captions, name=shown(name))


def _why_no_file(path: pathlib.Path) -> str | None:
    """Returns why a path cannot be read, such as a pipe, which has no end; a missing file is found
    later."""
    if is_there(path) or not os.path.lexists(path):
        return None
    if path.is_dir():
        return "a folder, not an image"
    return None if path.is_symlink() else "neither a file nor a folder"


def _why_no_row(row: Row) -> str | None:
    """Returns why a row does not say which image it means."""
    name = row.values.get("file_name")
    if not isinstance(name, str) or not name:
        return "no file_name" if row.values else row.wrong
    return f"{shown(name)} leads out of the folder" if leaves(name) else None


def _check_keys(metadata: pathlib.Path, rows: list[Row], caption_column: str) -> None:
    keys = {key for row in rows for key in row.values}
    missing = [key for key in ("file_name", caption_column) if key not in keys]
    for sign, what in ((";", "semicolons"), ("\t", "tabs")):
        if missing and len(keys) == 1 and sign in min(keys):
            raise UserError(
                f"{shown(metadata)} has {what} between its columns: save it with commas"
            )
    if missing:
        raise UserError(
            f"{shown(metadata)} has no {' and no '.join(map(repr, missing))}, only "
            f"{some(sorted(map(repr, keys)))}: set data.caption_column to the captions' name, "
            "and call the images' file_name"
        )


def _jsonl_rows(path: pathlib.Path) -> list[Row]:
    text = read_text(path)
    if why := _why_no_lines(text):
        raise UserError(f"{shown(path)} is {why}: write one object a line")
    lines = {number: line for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    parsed = {number: parse_object(line) for number, line in lines.items()}
    return [
        Row(number, {}, row) if isinstance(row, str) else Row(number, row)
        for number, row in parsed.items()
    ]


def _why_no_lines(text: str) -> str | None:
    """Returns what a file is instead of JSON lines, if that is known."""
    first = text.lstrip()[:1]
    try:
        whole = json.loads(text) if first == "[" else None
    except (ValueError, RecursionError):
        whole = None
    opening = text.strip().split("\n")[0].strip()
    if isinstance(whole, list) or opening == "[":
        return "one JSON array"
    return "JSON objects over several lines each" if opening == "{" else None


def _csv_rows(path: pathlib.Path, caption_column: str) -> list[Row]:
    rows, problems = list[Row](), list[str]()
    head: list[str] = []
    for number, fields in _csv_lines(read_text(path)):
        if isinstance(fields, str):
            problems.append(f"line {number}: {fields}")
        elif not head:
            head = [name.strip() for name in fields]
            while head and not head[-1]:
                head.pop()
            twice = {name for name in head if head.count(name) > 1}
            problems += [f"line {number}: two columns are called {name!r}" for name in twice]
        elif any(field.strip() for field in fields):  # spreadsheets save empty rows as ",,"
            rows.append(_csv_row(number, head, fields, caption_column))
    if problems:
        raise UserError(listed(f"{shown(path)} cannot be read as CSV:", problems))
    return rows


def _csv_lines(text: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yields the fields of each row with the number of its first line, or what is wrong with that
    line.

    A line with a " that is never closed, or is followed by more, ends where it ends.
    """
    # A line ends in "\n" alone, and csv takes a "\r" for the end of a row.
    lines = [f"{line}\n" for line in text.replace("\r", " ").split("\n")]
    at = 0
    while at < len(lines):
        reader = csv.reader(map(lines.__getitem__, range(at, len(lines))), strict=True)
        try:
            yield at + 1, next(reader)
            at += reader.line_num
            continue
        except csv.Error:
            pass
        try:
            *fields, last = next(csv.reader([lines[at]]))
            yield at + 1, [*fields, last.removesuffix("\n")]
        except csv.Error as error:
            yield at + 1, str(error)
        at += 1


def _csv_row(line: int, head: list[str], fields: list[str], caption_column: str) -> Row:
    """Returns a row by its columns; the last one may be a caption with commas."""
    while len(fields) > len(head) and not fields[-1].strip():  # as spreadsheets fill rows up
        fields = fields[:-1]
    if len(fields) > len(head) and head[-1] == caption_column:
        last = len(head) - 1
        fields = [*fields[:last], ",".join(fields[last:])]
    wrong = None
    if len(fields) > len(head):
        wrong = (
            f'{len(fields)} fields where the first line names {len(head)}: put " around a caption '
            "with commas"
        )
    return Row(line, dict(zip(head, fields, strict=False)), wrong)
