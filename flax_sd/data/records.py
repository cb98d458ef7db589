"""Where the captioned pictures are: one record each, from a folder or a `datasets` table."""

import csv
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from flax_sd.data import masks, texts
from flax_sd.data.endings import PICTURES, is_picture, why_unread
from flax_sd.errors import UserError
from flax_sd.text_file import parse_object, read_text

REPEATED = re.compile(r"([1-9]\d*)_(.+)")  # sd-scripts' folders: 10_sks cat
ONE_SET = "its name has no number as 10_cat has, so all folders are one set without repeats"


class Record(NamedTuple):
    """One picture: the name the user knows it by, its captions, and what reads its bytes.

    Attributes:
      repeats: how often an epoch shows it.
      prior: whether it is there for regularisation.
      mask: the file of its mask, if one is beside it.
      by_folder: whether its caption is the name of its folder.
    """

    name: str
    captions: tuple[str, ...]
    read: Callable[[], bytes]
    repeats: int = 1
    prior: bool = False
    mask: pathlib.Path | None = None
    by_folder: bool = False


class Bad(NamedTuple):
    """A file that is not used, and why."""

    name: str
    reason: str


class Listing(NamedTuple):
    """The records found, not yet opened, those that cannot be used, and what nothing speaks of."""

    records: list[Record]
    bad: list[Bad]
    unused: list[Bad]


class Repeated(NamedTuple):
    """A folder of sd-scripts' layout: 10_sks cat."""

    path: pathlib.Path
    repeats: int
    words: str  # the class


def caption_tuple(value: Any) -> tuple[str, ...] | None:
    """Returns the captions in a cell, a string or a list of strings; None if it is neither."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values:
        return None
    return tuple(values) if all(isinstance(v, str) for v in values) else None


def list_folder(folder: pathlib.Path, caption_column: str | None) -> Listing:
    """Lists the pictures that metadata.jsonl or metadata.csv names, or those beside .txt captions.

    Args:
      caption_column: None lists every picture, each with an empty caption, whatever names it.

    Raises:
      UserError: there is nothing to train on, or the metadata file cannot be read.
    """
    if caption_column is None:
        listing = _all_pictures(folder)
    else:
        listing = _list_pictures(folder, caption_column)
        listing.unused.extend(_lone_masks(folder))
    known = _known(listing)
    listing.unused.extend(bad for bad in _unread(folder) if bad.name not in known)
    return listing


def _list_pictures(folder: pathlib.Path, caption_column: str) -> Listing:
    found = [p for p in (folder / "metadata.jsonl", folder / "metadata.csv") if p.is_file()]
    if len(found) > 1:
        raise UserError(f"{folder} holds both metadata.jsonl and metadata.csv: keep one of them")
    if not found:
        named, others = _repeated(folder)
        if named and not others:
            return _from_repeated(folder, named)
        listing = _from_captions(folder)
        listing.unused.extend(Bad(name, ONE_SET) for name in others if named)
        return listing
    rows = _jsonl_rows(found[0]) if found[0].suffix == ".jsonl" else _csv_rows(found[0])
    listing = _from_rows(found[0], rows, caption_column)
    known, why = _known(listing), f"{found[0].name} does not name it"
    names = (path.relative_to(folder).as_posix() for path in _pictures(folder))
    listing.unused.extend(Bad(name, why) for name in names if name not in known)
    return listing


def _known(listing: Listing) -> set[str]:
    """The names of what is used or left out, however metadata files write them."""
    found = (*listing.records, *listing.bad)
    return {pathlib.Path(os.path.normpath(each.name)).as_posix() for each in found}


def _unread(folder: pathlib.Path) -> list[Bad]:
    """Pictures by name that are not read."""
    found = ((path, why_unread(path)) for path in _files(folder))
    return [Bad(path.relative_to(folder).as_posix(), why) for path, why in found if why]


def _hint(found: Sequence[Bad]) -> str:
    """What ends an error: the first of the files that may be meant, and how many more there are."""
    if not found:
        return ""
    more = f", and {len(found) - 1} more likewise" if len(found) > 1 else ""
    return f"; {found[0].name}: {found[0].reason}{more}"


def _all_pictures(folder: pathlib.Path) -> Listing:
    paths = list(_pictures(folder))
    if not paths:
        read = " ".join(sorted(PICTURES))
        raise UserError(f"{folder} holds no pictures: {read} are read{_hint(_unread(folder))}")
    names = [path.relative_to(folder).as_posix() for path in paths]
    pairs = zip(names, paths, strict=True)
    return Listing([Record(name, ("",), path.read_bytes) for name, path in pairs], [], [])


def _jsonl_rows(path: pathlib.Path) -> list[tuple[int, dict[str, Any]]]:
    rows, problems = [], []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        row = parse_object(line)
        if isinstance(row, str):
            problems.append(f"line {number}: {row}")
        else:
            rows.append((number, row))
    if problems:
        raise UserError("\n  ".join([f"{path} needs one JSON object a line:", *problems]))
    return rows


def _csv_rows(path: pathlib.Path) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(read_text(path).splitlines(keepends=True))
    try:
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from error


def _from_rows(
    metadata: pathlib.Path, rows: list[tuple[int, dict[str, Any]]], caption_column: str
) -> Listing:
    if not rows:
        raise UserError(f"{metadata} names no picture: write a row with file_name for each")
    _check_keys(metadata, [row for _, row in rows], caption_column)
    problems, listing = [], Listing([], [], [])
    for number, row in rows:
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            problems.append(f"line {number}: no file_name")
        elif _leaves(name):
            problems.append(f"line {number}: {name} leads out of the folder")
        else:
            captions = caption_tuple(row.get(caption_column))
            if captions is None:
                reason = f"line {number} of {metadata.name} has no caption in {caption_column!r}"
                listing.bad.append(Bad(name, reason))
            else:
                listing.records.append(_record(name, captions, metadata.parent / name))
    if problems:
        right = "each row needs a file_name, a path inside the folder:"
        raise UserError("\n  ".join([f"{metadata}: {right}", *problems]))
    return listing


def _check_keys(metadata: pathlib.Path, rows: list[dict[str, Any]], caption_column: str) -> None:
    keys = {key for row in rows for key in row if isinstance(key, str)}
    missing = [key for key in ("file_name", caption_column) if key not in keys]
    if missing:
        raise UserError(
            f"{metadata} has no {' and no '.join(map(repr, missing))}, only "
            f"{', '.join(map(repr, sorted(keys)))}: set data.caption_column to the captions' name, "
            "and call the pictures' file_name"
        )


def _leaves(name: str) -> bool:
    """Judges the path as written: a link inside the folder may lead where the user likes."""
    climbs = os.path.normpath(name.replace("\\", "/")).split("/")[0] == ".."
    return climbs or pathlib.PureWindowsPath(name).anchor != ""  # an anchor: /, C: or a share


def _pictures(folder: pathlib.Path) -> Iterable[pathlib.Path]:
    return filter(is_picture, _files(folder))


def _files(folder: pathlib.Path) -> Iterable[pathlib.Path]:
    """What is not hidden, in an order that is everywhere the same."""
    for path in sorted(folder.rglob("*"), key=lambda p: p.relative_to(folder).as_posix()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            yield path


def _record(name: str, captions: tuple[str, ...], path: pathlib.Path) -> Record:
    mask = masks.beside(path)
    return Record(name, captions, path.read_bytes, mask=mask if mask.is_file() else None)


def _from_captions(folder: pathlib.Path) -> Listing:
    """Lists pictures with a .txt of the same name; each line of that is a caption of its own."""
    files = list(_files(folder))
    captions = {path: texts.beside(path, texts.PLAIN) for path in filter(is_picture, files)}
    unread = list(texts.unread(files, texts.PLAIN))
    if not any(captions.values()):
        strays = _named(folder, [each for each in unread if each.picture])
        raise _no_captions(folder, len(captions), strays)
    listing = Listing([], [], _named(folder, unread))
    strays = {each.picture: each.path.name for each in unread}
    for path, caption in captions.items():
        if caption:
            _add(listing, folder, path, caption)
        else:
            right, name = path.with_suffix(".txt").name, path.relative_to(folder).as_posix()
            mend = f", but {strays[path]} is: name it {right}" if path in strays else ""
            listing.bad.append(Bad(name, f"no caption: {right} is not beside it{mend}"))
    return listing


def _no_captions(folder: pathlib.Path, count: int, strays: Sequence[Bad]) -> UserError:
    """The error of a folder in which no caption is read, with what may be meant."""
    named, others = _repeated(folder)
    hint = f"; {', '.join(others)}: {ONE_SET}" if named and others else ""
    hint += _hint(strays) + _hint(_unread(folder))
    return UserError(
        f"{folder} holds {count or 'no'} pictures and no captions for them: it needs a "
        'metadata.jsonl with lines like {"file_name": "1.png", "text": "a cat"}, or a .txt '
        f"beside each picture (1.txt beside 1.png){hint}"
    )


def _add(listing: Listing, folder: pathlib.Path, path: pathlib.Path, caption: pathlib.Path) -> None:
    """Adds a picture with the lines of its caption's file."""
    name = path.relative_to(folder).as_posix()
    try:
        lines = [line.strip() for line in read_text(caption).splitlines()]
    except UserError as error:
        listing.bad.append(Bad(name, str(error)))
        return
    captions = tuple(line for line in lines if line) or ("",)
    listing.records.append(_record(name, captions, path))


def _named(folder: pathlib.Path, unread: Iterable[texts.Unread]) -> list[Bad]:
    return [Bad(each.path.relative_to(folder).as_posix(), each.why) for each in unread]


def _lone_masks(folder: pathlib.Path) -> list[Bad]:
    """Masks of no picture."""
    used = {masks.beside(path) for path in _pictures(folder)}
    why = "a mask of no picture: 1-masklabel.png is that of a picture 1 beside it"
    files = (path for path in _files(folder) if path.suffix.lower() in PICTURES)
    lone = (path for path in files if masks.is_mask(path) and path not in used)
    return [Bad(path.relative_to(folder).as_posix(), why) for path in lone]


def _repeated(folder: pathlib.Path) -> tuple[list[Repeated], list[str]]:
    """Folders with pictures that are named as sd-scripts names them, and what is not so named."""
    named, others = [], []
    paths = (path.relative_to(folder).parts for path in _pictures(folder))
    for first in dict.fromkeys(parts[0] for parts in paths):
        match = REPEATED.fullmatch(first)
        if match and (folder / first).is_dir():
            named.append(Repeated(folder / first, int(match[1]), match[2]))
        else:
            others.append(first)
    return named, others


def _from_repeated(folder: pathlib.Path, parts: Iterable[Repeated]) -> Listing:
    """Lists sd-scripts' layout: captions are .txt or .caption files, or else the class."""
    listing = Listing([], [], [])
    for part, repeats, words in parts:
        own, files = Listing([], listing.bad, listing.unused), list(_files(part))
        for path in filter(is_picture, files):
            if caption := texts.beside(path, texts.REPEATED):
                _add(own, folder, path, caption)
            else:
                name = path.relative_to(folder).as_posix()
                own.records.append(_record(name, (words,), path)._replace(by_folder=True))
        listing.records.extend(each._replace(repeats=repeats) for each in own.records)
        listing.unused.extend(_named(folder, texts.unread(files, texts.REPEATED)))
    return listing
