"""Files of captions beside pictures: which are read, and which only look as if they were."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from flax_sd.data.sources.account import Account
from flax_sd.data.sources.file_names import composed
from flax_sd.data.sources.file_types import CAPTIONS, PICTURES, is_picture, why_unread
from flax_sd.errors import shown

PLAIN, REPEATED = (".txt",), (".txt", ".caption")  # read anywhere, and in sd-scripts' folders


class Unread(NamedTuple):
    """A file that looks like a caption and is not read."""

    path: pathlib.Path
    picture: pathlib.Path | None  # that it seems to be meant for
    why: str


def lines(text: str) -> tuple[str, ...]:
    """Returns the captions in a file of them, one a line; the empty one where there is none."""
    return tuple(line.strip() for line in text.split("\n") if line.strip()) or ("",)


def beside(account: Account, picture: pathlib.Path, read: Sequence[str]) -> pathlib.Path | None:
    """Returns the file of a picture's captions, by the first of the endings that is there."""
    found = (account.beside(picture.with_suffix(end)) for end in read)
    return next((path for path in found if path is not None), None)


def all_beside(account: Account, picture: pathlib.Path) -> list[pathlib.Path]:
    """Returns every file that may hold a picture's captions, where none is read."""
    found = (beside(account, picture, (end,)) for end in sorted(CAPTIONS))
    return [path for path in found if path is not None]


def unread(
    account: Account, files: Sequence[pathlib.Path], read: Sequence[str]
) -> Iterator[Unread]:
    """Yields those of some files that look like captions and are not read."""
    pictures = {composed(path.with_suffix("")): path for path in files if is_picture(path)}
    named = {path.with_suffix("") for path in files if why_unread(path)}
    for path in files:
        if picture := _meant_for(path, pictures):
            if why := _why_not(account, path, picture, read):
                yield Unread(path, picture, why)
        elif path.suffix.lower() in read and path.with_suffix("") not in named:
            yield Unread(path, None, "no picture of this name is beside it")


def _why_not(
    account: Account, path: pathlib.Path, picture: pathlib.Path, read: Sequence[str]
) -> str | None:
    own = beside(account, picture, read)
    if own == path:
        return None
    what = f"looks like a caption of {shown(picture.name)} and is not read"
    if own is None:
        return f"{what}: name it {shown(picture.with_suffix('.txt').name)}"
    return f"{what}, as {shown(own.name)} is"


def _meant_for(
    path: pathlib.Path, pictures: Mapping[pathlib.Path, pathlib.Path]
) -> pathlib.Path | None:
    """The picture, by its path without ending, that 1.txt, 1.cap or 1.png.txt stands beside."""
    if path.suffix.lower() not in CAPTIONS:
        return None
    while path.suffix.lower() in CAPTIONS | PICTURES:
        path = path.with_suffix("")
        if found := pictures.get(composed(path)):
            return found
    return None
