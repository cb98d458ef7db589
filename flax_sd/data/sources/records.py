"""Records of captioned images, and of the files that are not used."""

import collections
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from flax_sd.data.sources.file_names import has_half_pair


class Record(NamedTuple):
    """One image: its name for the user, its captions, and a function that reads its bytes.

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
    """A file that is not used, and the reason."""

    name: str
    reason: str


class Listing(NamedTuple):
    """The records found (not yet opened), the unusable files, and files that are no part of a set.

    What is in a folder, an archive or a table is in one of the three.
    """

    records: list[Record]
    bad: list[Bad]
    unused: list[Bad]


def caption_tuple(value: object) -> tuple[str, ...] | str:
    """Returns the captions in a cell, a string or a list of strings; or a text saying what else it
    is."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
        return f"{value!r:.40}, not a caption or a list of them"
    if any(map(has_half_pair, values)):
        return f"{value!r:.40}, with half a surrogate pair, which is no character"
    return tuple(values)


def several(names: list[str]) -> str:
    """Returns the first of the names, and the number of the others."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def gathered(files: list[Bad]) -> list[Bad]:
    """Merges entries of one file extension and reason into one line."""
    groups = collections.defaultdict[tuple[str, str], list[str]](list)
    for name, reason in files:
        groups[pathlib.PurePath(name).suffix.lower(), reason].append(name)
    return [Bad(several(names), reason) for (_, reason), names in groups.items()]
