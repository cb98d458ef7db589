"""The captioned images of a folder: by a metadata file, by their captions, or by its folders."""

import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flax_sd.data.masks import is_mask
from flax_sd.data.sources import caption_files, metadata, splits
from flax_sd.data.sources.account import Account
from flax_sd.data.sources.file_types import (
    CAPTIONS,
    METADATA,
    OTHERS,
    PICTURES,
    is_about_the_set,
    is_image,
    why_unread,
)
from flax_sd.data.sources.records import Bad, Listing
from flax_sd.errors import UserError, shown, some
from flax_sd.files.text import read_text

REPEATED = re.compile(r"(0*[1-9]\d*)_(.+)")  # sd-scripts' folders: 10_sks cat, 05_dog
ONE_SET = (
    "its name is not as 10_cat (repeats, _, class), so all folders are one set without repeats"
)


class Repeated(NamedTuple):
    """A folder of sd-scripts' layout: 10_sks cat."""

    path: pathlib.Path
    repeats: int
    words: str  # the class


def list_folder(folder: pathlib.Path, caption_column: str | None) -> Listing:
    """Lists the images that metadata.jsonl or metadata.csv names, or those beside .txt captions.

    Args:
      caption_column: None lists every image, each with an empty caption, whatever names it.

    Raises:
      UserError: there is nothing to train on, or the metadata file cannot be read.
    """
    account = Account(folder)
    if caption_column is None:
        _leave_splits(account)
        _take_all(account)
        account.close(lambda path: None)
        return account.listing
    found = metadata.files(account)
    if not any(path.parent == folder for path in found):
        _leave_splits(account)
        found = metadata.files(account)
    if found:
        _take_named(account, found, caption_column)
    else:
        _take_captioned(account)
    account.close(_why_no_image)
    return account.listing


def _why_no_image(path: pathlib.Path) -> str | None:
    if is_mask(path) and path.suffix.lower() in PICTURES:
        return "a mask without an image: 1-masklabel.png belongs to an image 1 beside it"
    return None


def _leave_splits(account: Account) -> None:
    """Sets aside the folders of other splits, where one is called train."""
    found = {path: _split(account, path) for path in account.files}
    if not splits.are_divided(found[path][1] for path in account.images()):
        return
    for path in account.images():
        if found[path][1] is None:
            account.use(*caption_files.caption_paths(account, path))
            account.set_aside(path, splits.not_trained_on(None, None))
    others = {holder: split for holder, split in found.values() if split not in (None, "train")}
    for holder, split in others.items():
        account.set_aside(holder, splits.not_trained_on(split, holder))
        account.use(*(path for path in found if holder in path.parents))


def _split(account: Account, path: pathlib.Path) -> tuple[pathlib.Path, str | None]:
    """Returns the uppermost folder above a file that is named after a split, and the split."""
    holder = account.folder
    for part in path.relative_to(account.folder).parts[:-1]:
        holder /= part
        if split := splits.split_of_folder(part):
            return holder, split
    return account.folder, None


def _take_all(account: Account) -> None:
    """Lists every image; captions and masks are for other modes."""
    account.use(*(path for path in list(account.files) if path.name.lower() in METADATA))
    images = account.images()
    if not images:
        read = " ".join(sorted(PICTURES))
        hint = _hint([*account.listing.bad, *_meant(account)])
        raise UserError(f"{shown(account.folder)} holds no images: {read} are read{hint}")
    for path in images:
        account.use(*caption_files.caption_paths(account, path))
        account.add(path, ("",))
    records = account.listing.records
    records[:] = [record._replace(mask=None) for record in records]


def _take_named(account: Account, found: Sequence[pathlib.Path], caption_column: str) -> None:
    """Lists the files in metadata files, and images with captions that none of these names."""
    for path in found:
        metadata.take(account, path, caption_column)
    below = account.below(path.parent for path in found)
    for path in found:
        files = below[path.parent]
        for each in filter(is_image, files):
            account.set_aside(each, f"{path.name} does not name it")
        captions = [each for each in files if each.suffix.lower() in CAPTIONS]
        captions = [each for each in captions if not is_about_the_set(each)]
        account.set_aside_together(captions, f"not read, as {path.name} has the captions")
    if elsewhere := account.images():
        _take_texts(account, elsewhere, caption_files.PLAIN)


def _take_captioned(account: Account) -> None:
    """Lists images by the captions beside them, or in sd-scripts' layout."""
    named, others = _repeated(account)
    if named and not others:
        _take_repeated(account, named)
        return
    images = account.images()
    if not any(caption_files.caption_path(account, path, caption_files.PLAIN) for path in images):
        raise _no_captions(account, len(images), others if named else [])
    _take_texts(account, images, caption_files.PLAIN)
    account.listing.unused.extend(Bad(shown(name), ONE_SET) for name in others if named)


def _take_texts(account: Account, images: Sequence[pathlib.Path], read: Sequence[str]) -> None:
    """Lists images with a .txt of the same name; each line of that is a caption of its own."""
    unread = list(caption_files.unread(account, list(account.files), read))
    strays = {each.image: each.path.name for each in unread}
    for path in images:
        if caption := caption_files.caption_path(account, path, read):
            _add(account, path, caption)
        else:
            right = shown(path.with_suffix(".txt").name)
            mend = f", but {shown(strays[path])} is: name it {right}" if path in strays else ""
            account.leave_out(path, f"no caption: {right} is not beside it{mend}")
    for each in unread:
        account.set_aside(each.path, each.why)


def _add(account: Account, path: pathlib.Path, caption: pathlib.Path) -> None:
    """Records an image with the lines of its caption file."""
    account.use(caption)
    try:
        captions = caption_files.lines(read_text(caption))
    except UserError as error:
        account.leave_out(path, str(error))
    else:
        account.add(path, captions)


def _no_captions(account: Account, count: int, others: Sequence[str]) -> UserError:
    """Returns the error for a folder without captions, with a hint."""
    hint = f"; {some([shown(name) for name in others])}: {ONE_SET}" if others else ""
    hint += _hint([*account.listing.bad, *_meant(account)])
    found = f"{shown(account.folder)} holds {count or 'no'} images and no captions for them"
    return UserError(
        f"{found}: it needs "
        'a metadata.jsonl with lines like {"file_name": "1.png", "text": "a cat"}, or a .txt '
        f"beside each image (1.txt beside 1.png){hint}"
    )


def _meant(account: Account) -> list[Bad]:
    """Lists files that may be meant as captions, images or sets, and why they are not read."""
    unread = caption_files.unread(account, list(account.files), caption_files.PLAIN)
    found = [(each.path, each.why) for each in unread if each.image]
    others = ((path, why_unread(path) or OTHERS.get(path.suffix.lower())) for path in account.files)
    found += [(path, why) for path, why in others if why]
    return [Bad(account.name(path), why) for path, why in found]


def _hint(found: Sequence[Bad]) -> str:
    """Returns the end of an error: the first of the files that may be meant, and how many more."""
    if not found:
        return ""
    more = f", and {len(found) - 1} more likewise" if len(found) > 1 else ""
    return f"; {found[0].name}: {found[0].reason}{more}"


def _repeated(account: Account) -> tuple[list[Repeated], list[str]]:
    """Returns the image folders named as in sd-scripts, and the others."""
    named, others = [], []
    paths = [path.relative_to(account.folder).parts for path in account.images()]
    folders = {parts[0] for parts in paths if len(parts) > 1}
    for first in dict.fromkeys(parts[0] for parts in paths):
        match = REPEATED.fullmatch(first)
        if match and first in folders:
            named.append(Repeated(account.folder / first, int(match[1]), match[2]))
        else:
            others.append(first)
    return named, others


def _take_repeated(account: Account, parts: Iterable[Repeated]) -> None:
    """Lists sd-scripts' layout: captions are .txt or .caption files, or else the class."""
    parts = list(parts)
    below = account.below(part.path for part in parts)
    for part, repeats, words in parts:
        first = len(account.listing.records)
        unread = list(caption_files.unread(account, below[part], caption_files.REPEATED))
        for path in filter(is_image, below[part]):
            if caption := caption_files.caption_path(account, path, caption_files.REPEATED):
                _add(account, path, caption)
            else:
                account.add(path, (words,), by_folder=True)
        own = account.listing.records[first:]
        account.listing.records[first:] = [each._replace(repeats=repeats) for each in own]
        for each in unread:
            account.set_aside(each.path, each.why)
