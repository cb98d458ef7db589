"""Caption files beside images: those that are read, and those that only look like one."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from flax_sd.data.sources.account import Account
from flax_sd.data.sources.file_names import composed
from flax_sd.data.sources.file_types import CAPTIONS, PICTURES, is_image, why_unread
from flax_sd.errors import shown

PLAIN, REPEATED = (".txt",), (".txt", ".caption")  # read anywhere, and in sd-scripts' folders


class Unread(NamedTuple):
    """A file that looks like a caption and is not read."""

    path: pathlib.Path
    image: pathlib.Path | None  # that it seems to be meant for
    why: str


def lines(text: str) -> tuple[str, ...]:
    """Returns the captions in a file, one a line; an empty caption if there are none."""
    return tuple(line.strip() for line in text.split("\n") if line.strip()) or ("",)


def caption_path(account: Account, image: pathlib.Path, read: Sequence[str]) -> pathlib.Path | None:
    """Returns an image's caption file: the first that exists, in the order of the extensions."""
    found = (account.find(image.with_suffix(end)) for end in read)
    return next((path for path in found if path is not None), None)


def caption_paths(account: Account, image: pathlib.Path) -> list[pathlib.Path]:
    """Returns every file that may hold an image's captions, for a mode that reads none."""
    found = (caption_path(account, image, (end,)) for end in sorted(CAPTIONS))
    return [path for path in found if path is not None]


def unread(
    account: Account, files: Sequence[pathlib.Path], read: Sequence[str]
) -> Iterator[Unread]:
    """Yields the files that look like captions and are not read."""
    images = {composed(path.with_suffix("")): path for path in files if is_image(path)}
    named = {path.with_suffix("") for path in files if why_unread(path)}
    for path in files:
        if image := _meant_for(path, images):
            if why := _why_not(account, path, image, read):
                yield Unread(path, image, why)
        elif path.suffix.lower() in read and path.with_suffix("") not in named:
            yield Unread(path, None, "no image of this name is beside it")


def _why_not(
    account: Account, path: pathlib.Path, image: pathlib.Path, read: Sequence[str]
) -> str | None:
    own = caption_path(account, image, read)
    if own == path:
        return None
    what = f"looks like a caption of {shown(image.name)} and is not read"
    if own is None:
        return f"{what}: name it {shown(image.with_suffix('.txt').name)}"
    return f"{what}, as {shown(own.name)} is"


def _meant_for(
    path: pathlib.Path, images: Mapping[pathlib.Path, pathlib.Path]
) -> pathlib.Path | None:
    """Returns the image, without extension, that 1.txt, 1.cap or 1.png.txt belongs to."""
    if path.suffix.lower() not in CAPTIONS:
        return None
    while path.suffix.lower() in CAPTIONS | PICTURES:
        path = path.with_suffix("")
        if found := images.get(composed(path)):
            return found
    return None
