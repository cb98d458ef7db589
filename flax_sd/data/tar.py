"""Captioned pictures in a .tar as webdataset writes it: files that share a key are one sample."""

import functools
import io
import pathlib
import tarfile
from typing import NamedTuple

from flax_sd.data import masks
from flax_sd.data.endings import PICTURES, why_unread
from flax_sd.data.records import Bad, Listing, Record, caption_tuple
from flax_sd.errors import UserError
from flax_sd.text_file import parse_object

BLOCK = 512  # bytes; an archive ends with blocks of zeros


class Member(NamedTuple):
    """A file in the archive."""

    name: str
    start: int
    stop: int


def list_tar(name: str, content: bytes, caption_column: str | None) -> Listing:
    """Lists the pictures of an archive with the captions beside them.

    A caption is what the sample's .json holds under `caption_column` (a string or a list of them),
    or else its .txt, each line of which is a caption of its own.

    Args:
      name: of the archive, for what is wrong with all of it.
      caption_column: None lists every picture, each with an empty caption.
    """
    listing = Listing([], [], [])
    members, damage = _members(content)
    if damage:
        listing.bad.append(Bad(name, damage))
    for files in _samples(members).values():
        pictures = [end for end in files if f".{end.rpartition('.')[2]}" in PICTURES]
        if not pictures:
            listing.unused.extend(_without_picture(files))
            continue
        picture = files[pictures[0]]
        captions = ("",) if caption_column is None else _captions(content, files, caption_column)
        if isinstance(captions, str):
            listing.bad.append(Bad(picture.name, captions))
        elif picture.stop > len(content):
            listing.bad.append(Bad(picture.name, "the archive is cut off in it"))
        else:
            read = functools.partial(_slice, content, picture)
            listing.records.append(Record(picture.name, captions, read))
    return listing


def _without_picture(files: dict[str, Member]) -> list[Bad]:
    """The files of a sample in which nothing is a picture that is read."""
    found = [(member.name, why_unread(pathlib.Path(member.name))) for member in files.values()]
    unread = [Bad(name, why) for name, why in found if why]
    return unread or [Bad(name, "no picture has this key") for name, _ in found]


def _slice(content: bytes, member: Member) -> bytes:
    return content[member.start : member.stop]


def _members(content: bytes) -> tuple[list[Member], str | None]:
    """The files of an archive, and what keeps others from being found."""
    members, end = [], 0
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for each in archive:
                if each.isfile():
                    start = each.offset_data
                    members.append(Member(each.name, start, start + each.size))
            end = archive.offset
    except tarfile.ReadError as error:
        return members, f"the archive is damaged: {error}"
    # At a header that cannot be read, tarfile ends as it does at the end.
    if content[end : end + BLOCK].strip(b"\0") or end >= len(content):
        last = f"after {members[-1].name}" if members else "at its first file"
        return members, f"the archive is damaged or cut off {last}"
    return members, None


def _samples(members: list[Member]) -> dict[str, dict[str, Member]]:
    """Files by key and ending: of a/b.seg.png, a/b and seg.png, as webdataset has it."""
    samples: dict[str, dict[str, Member]] = {}
    for member in members:
        path = pathlib.PurePosixPath(member.name)
        stem, _, end = path.name.partition(".")
        if stem and end and not masks.is_mask(pathlib.Path(path)):
            samples.setdefault(str(path.with_name(stem)), {})[end.lower()] = member
    return samples


def _captions(
    content: bytes, files: dict[str, Member], caption_column: str
) -> tuple[str, ...] | str:
    """The captions of a sample, or why there are none."""
    try:
        if "json" in files:
            values = parse_object(_text(content, files["json"]))
            if isinstance(values, str):
                return f"{files['json'].name}: {values}"
            if caption_column in values:
                found = caption_tuple(values[caption_column])
                kind = f"{values[caption_column]!r:.40}, not a caption or a list of them"
                return found or f"{files['json'].name} has as {caption_column!r} {kind}"
        if "txt" in files:
            lines = [line.strip() for line in _text(content, files["txt"]).splitlines()]
            return tuple(line for line in lines if line) or ("",)
    except UserError as error:
        return str(error)
    return f"no caption: neither a .txt nor a .json with {caption_column!r} is beside it"


def _text(content: bytes, member: Member) -> str:
    if member.stop > len(content):
        raise UserError(f"{member.name}: the archive is cut off in it")
    try:
        return _slice(content, member).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{member.name} is not UTF-8: save it as UTF-8") from error
