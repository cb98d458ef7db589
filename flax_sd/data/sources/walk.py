"""Everything in a folder: its files, through links too, and what cannot be read of it."""

import collections
import contextlib
import os
import pathlib
from typing import NamedTuple

from flax_sd.data.sources.file_types import is_left_behind
from flax_sd.errors import UserError, shown

_OF_A_RUN = {"config.yaml", "environment.json", "checkpoints"}


class Entry(NamedTuple):
    """Something in a folder that is not a readable file, and the reason."""

    path: pathlib.Path
    why: str


class Walk(NamedTuple):
    """The content of a folder, in the same order on every system.

    Attributes:
      hidden: what begins with a dot, and is not looked at.
      lost: links to nothing and folders that cannot be read, in which there may be images.
      others: empty folders, second ways to one folder, and what is neither file nor folder.
    """

    files: list[pathlib.Path]
    hidden: list[pathlib.Path]
    lost: list[Entry]
    others: list[Entry]


def walk(folder: pathlib.Path) -> Walk:
    """Reads a folder and all folders below it; files that systems leave behind are skipped.

    Links to folders are followed, each folder is read once, and those that are there themselves
    come first, so that links in a circle end.

    Raises:
      UserError: the folder itself cannot be read.
    """
    found, read = Walk([], [], [], []), _holding(folder)
    todo, links = collections.deque([folder]), collections.deque[pathlib.Path]()
    while todo or links:
        here = todo.popleft() if todo else links.popleft()
        try:
            about = here.stat()
            known = read.get((about.st_dev, about.st_ino))
            if known is not None:
                found.others.append(Entry(here, _second_way(known, folder)))
                continue
            read[about.st_dev, about.st_ino] = here
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            why = f"this folder cannot be read: {error.strerror}"
            if here == folder:
                raise UserError(f"{shown(folder)}: {why}") from error
            found.lost.append(Entry(here, why))
            continue
        kept = [entry for entry in entries if not is_left_behind(entry.name)]
        if not kept and here != folder:
            found.others.append(Entry(here, "an empty folder"))
        if here != folder and _OF_A_RUN <= {entry.name for entry in kept}:
            found.others.append(
                Entry(here, "the folder of a run: its samples are not part of the set")
            )
            continue
        for entry in kept:
            _sort(found, todo, links, entry)
    for part in found:
        part.sort(key=lambda each: _below(each.path if isinstance(each, Entry) else each, folder))
    return found


def _holding(folder: pathlib.Path) -> dict[tuple[int, int], pathlib.Path]:
    """Returns the folders above a folder by device and inode: a link to one is a cycle."""
    found = dict[tuple[int, int], pathlib.Path]()
    for path in folder.resolve().parents:
        with contextlib.suppress(OSError):
            found[path.stat().st_dev, path.stat().st_ino] = path
    return found


def _second_way(known: pathlib.Path, folder: pathlib.Path) -> str:
    if known.is_relative_to(folder):
        return f"a link to {shown(_below(known, folder))}, which is read already"
    return f"a link to {shown(known)}, which holds this folder"


def _sort(
    found: Walk,
    folders: collections.deque[pathlib.Path],
    links: collections.deque[pathlib.Path],
    entry: os.DirEntry[str],
) -> None:
    """Adds an entry to the list of its kind."""
    path = pathlib.Path(entry.path)
    try:
        if entry.name.startswith("."):
            found.hidden.append(path)
        elif entry.is_dir():
            (links if entry.is_symlink() else folders).append(path)
        elif entry.is_file():
            found.files.append(path)
        elif entry.is_symlink() and not path.exists():
            found.lost.append(
                Entry(path, f"a link to {shown(os.readlink(path))}, which is not there")
            )
        else:
            found.others.append(Entry(path, "neither a file nor a folder"))
    except OSError as error:  # links in a circle, a drive that is away
        found.lost.append(Entry(path, f"cannot be read: {error.strerror}"))


def _below(path: pathlib.Path, folder: pathlib.Path) -> str:
    return "." if path == folder else path.relative_to(folder).as_posix()
