"""Captioned images in a .tar as webdataset writes it: files that share a key are one sample."""

import functools
import io
import pathlib
import posixpath
import tarfile
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flax_sd.data import masks
from flax_sd.data.sources.account import HIDDEN
from flax_sd.data.sources.caption_files import lines
from flax_sd.data.sources.file_types import PICTURES, is_left_behind, why_unread
from flax_sd.data.sources.records import Bad, Listing, Record, caption_tuple, gathered
from flax_sd.errors import UserError, shown
from flax_sd.files.text import decoded, parse_object

BLOCK = 512  # bytes; an archive ends with blocks of zeros


class Member(NamedTuple):
    """A file in the archive."""

    name: str
    start: int
    stop: int


class Contents(NamedTuple):
    """The files of an archive by name, its other entries, and the damage that hides the rest."""

    files: dict[str, Member]
    unused: list[Bad]
    damage: str | None


def list_tar(name: str, content: bytes, caption_column: str | None) -> Listing:
    """Lists the images of an archive with the captions beside them.

    A caption is what the sample's .json holds under `caption_column` (a string or a list of them),
    or else its .txt, each line of which is a caption of its own.

    Args:
      name: of the archive, for what is wrong with all of it.
      caption_column: None lists every image, each with an empty caption.
    """
    found = _contents(content)
    listing = Listing([], [], found.unused)
    if found.damage:
        listing.bad.append(Bad(name, found.damage))
    samples, others = _samples(found.files.values())
    listing.unused.extend(others)
    for files in samples.values():
        _list_sample(listing, content, files, caption_column)
    return listing._replace(unused=gathered(listing.unused))


def _list_sample(
    listing: Listing, content: bytes, files: dict[str, Member], caption_column: str | None
) -> None:
    """Records the use of each file of a sample."""
    images = [end for end in files if f".{end.rpartition('.')[2]}" in PICTURES]
    if not images:
        listing.unused.extend(_without_image(files))
        return
    image, name = files[images[0]], shown(files[images[0]].name)
    read, captions = None, ("",)
    if caption_column is not None:
        read, captions = _captions(content, files, caption_column)
    if isinstance(captions, str):
        listing.bad.append(Bad(name, captions))
    elif image.stop > len(content):
        listing.bad.append(Bad(name, "the archive ends inside it"))
    else:
        listing.records.append(Record(name, captions, functools.partial(_slice, content, image)))
    for end, member in files.items():
        if end in images[1:]:
            why = f"a second image beside {name}, which is used"
        elif end == "txt" and read == "json":
            why = "not read, as the .json of its key has the caption"
        elif end in (*images, "json", "txt"):
            continue
        else:
            why = why_unread(pathlib.PurePosixPath(member.name)) or "no image, and no caption"
        listing.unused.append(Bad(shown(member.name), why))


def _without_image(files: dict[str, Member]) -> list[Bad]:
    """Returns the files of a sample that has no readable image."""
    found = [(shown(each.name), why_unread(pathlib.Path(each.name))) for each in files.values()]
    if any(why for _, why in found):  # whose captions need no word of their own
        pairs = zip(files, found, strict=True)
        others = [pair for end, pair in pairs if end not in ("json", "txt")]
        return [Bad(name, why or "no image, and no caption") for name, why in others]
    return [Bad(name, "no image has this key") for name, _ in found]


def _slice(content: bytes, member: Member) -> bytes:
    return content[member.start : member.stop]


def _contents(content: bytes) -> Contents:
    """Reads the list of an archive's files."""
    found, links, end = Contents({}, [], None), dict[str, str](), 0
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for each in archive:
                _sort(found, links, each)
            end = archive.offset
    except Exception as error:  # damaged bytes may raise anything
        found = found._replace(damage=f"the archive is damaged: {shown(error)}")
    _follow(found, links)
    # At a header that cannot be read, tarfile ends as it does at the end.
    torn = content[end : end + BLOCK].strip(b"\0") or end >= len(content)
    if torn and found.damage is None:
        last = f"after {shown([*found.files][-1])}" if found.files else "at its first file"
        return found._replace(damage=f"the archive is damaged or ends early {last}")
    return found


def _sort(found: Contents, links: dict[str, str], member: tarfile.TarInfo) -> None:
    """Adds a member to the files, the links or the unused."""
    name = member.name
    if member.isdir():
        return
    if links.pop(name, None) or found.files.pop(name, None):
        found.unused.append(Bad(shown(name), "there twice: the last counts, as when unpacked"))
    if member.isfile():
        start = member.offset_data
        found.files[name] = Member(name, start, start + member.size)
    elif member.islnk() or member.issym():
        holder = posixpath.dirname(name) if member.issym() else ""
        links[name] = posixpath.normpath(posixpath.join(holder, member.linkname))
    else:
        found.unused.append(Bad(shown(name), "neither a file nor a folder"))


def _follow(found: Contents, links: Mapping[str, str]) -> None:
    """Gives each link the bytes of the file that it points to."""
    by_path = {posixpath.normpath(name): file for name, file in found.files.items()}
    further = {posixpath.normpath(name): target for name, target in links.items()}
    for name, first in links.items():
        target, passed = first, set[str]()
        while target not in by_path and target in further and target not in passed:
            passed.add(target)
            target = further[target]
        if target in by_path:
            found.files[name] = by_path[target]._replace(name=name)
        else:
            why = f"a link to {shown(first)}, which is not in the archive"
            found.unused.append(Bad(shown(name), why))


def _samples(members: Iterable[Member]) -> tuple[dict[str, dict[str, Member]], list[Bad]]:
    """Groups files by key and extension like webdataset (a/b.seg.png: a/b and seg.png); returns the
    others too."""
    samples: dict[str, dict[str, Member]] = {}
    others = []
    for member in members:
        path = pathlib.PurePosixPath(member.name)
        if any(map(is_left_behind, path.parts)):
            continue
        stem, _, end = path.name.partition(".")
        if why := _why_no_sample(path, stem, end):
            others.append(Bad(shown(member.name), why))
            continue
        files = samples.setdefault(str(path.with_name(stem)), {})
        first = files.setdefault(end.lower(), member)
        if first is not member:
            why = f"its key and ending are those of {shown(first.name)}, which is used"
            others.append(Bad(shown(member.name), why))
    return samples, others


def _why_no_sample(path: pathlib.PurePosixPath, stem: str, end: str) -> str | None:
    if masks.is_mask(path):
        return "a mask, which is read from folders alone"
    if not end:
        return "its name has no ending, which says what it is"
    return None if stem else HIDDEN


def _captions(
    content: bytes, files: dict[str, Member], caption_column: str
) -> tuple[str | None, tuple[str, ...] | str]:
    """Returns the extension of the file with a sample's captions, and them or why there are
    none."""
    try:
        if "json" in files:
            name = shown(files["json"].name)
            values = parse_object(_text(content, files["json"]))
            if isinstance(values, str):
                return "json", f"{name}: {values}"
            if caption_column in values:
                found = caption_tuple(values[caption_column])
                wrong = f"{name} has as {caption_column!r} {found}"
                return "json", wrong if isinstance(found, str) else found
        if "txt" in files:
            return "txt", lines(_text(content, files["txt"]))
    except UserError as error:
        return None, str(error)
    return None, f"no caption: neither a .txt nor a .json with {caption_column!r} is beside it"


def _text(content: bytes, member: Member) -> str:
    if member.stop > len(content):
        raise UserError(f"{shown(member.name)}: the archive ends inside it")
    return decoded(_slice(content, member), member.name)
