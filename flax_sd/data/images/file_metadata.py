"""Separates the metadata of an image file from its pixels, so that it cannot break the decoding.

Pillow reads metadata before pixels, and gives up where it is damaged, larger than its limits, or
bears a name that it uses itself. So it gets the file without, and what matters is read here.
"""

import re
import struct
import zlib
from typing import NamedTuple

from flax_sd.data.images import tags

MAX_UNPACKED = 2**24  # bytes of a compressed profile or text; a larger one counts as unreadable
UNREADABLE = b"\0"  # in the place of what is there and cannot be unpacked


class Parts(NamedTuple):
    """The file of an image, and its metadata."""

    pixels: bytes  # the file without its metadata
    exif: bytes = b""
    xmp: bytes = b""
    profile: bytes | None = None  # of its colours
    frames: int | None = None  # None where Pillow counts them


def split(data: bytes) -> Parts:
    """Separates the metadata of PNG, JPEG, WebP, TIFF, AVIF and JPEG 2000; others are left
    whole."""
    readers = {b"\x89PNG\r\n\x1a\n": _png, b"\xff\xd8\xff": _jpeg, b"II": _tiff, b"MM": _tiff}
    reader = next((r for head, r in readers.items() if data.startswith(head)), None)
    if data[:4] + data[8:12] == b"RIFFWEBP":
        reader = _webp
    if data[4:8] in (b"ftyp", b"jP  "):
        reader = _avif if data[4:8] == b"ftyp" else _jp2
    try:
        return reader(data) if reader else Parts(data)
    except (ValueError, struct.error):
        return Parts(data)  # Pillow says what is wrong with it


def _png(data: bytes) -> Parts:
    """Keeps the chunks that a PNG decoder must know (capital letters, and tRNS)."""
    parts, kept, place = Parts(b""), [data[:8]], 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(data[place:end])
        else:
            if end != len(data) and not data[end + 4 : end + 8].isalpha():  # a damaged length
                found = _NEXT_CHUNK.search(data, place + 8)
                end = found.start() if found else len(data)
            parts = _png_metadata(parts, kind, data[place + 8 : end - 4])
        place = end
    return parts._replace(pixels=b"".join(kept))


_NEXT_CHUNK = re.compile(rb".{4}(?:PLTE|tRNS|IDAT|IEND)", re.DOTALL)


def _png_metadata(parts: Parts, kind: bytes, body: bytes) -> Parts:
    name, _, rest = body.partition(b"\0")
    if kind == b"iCCP" and parts.profile is None:
        return parts._replace(profile=_unpacked(rest[1:]))
    if kind == b"eXIf":
        return parts._replace(exif=body)
    if kind == b"acTL" and len(body) >= 4:
        return parts._replace(frames=max(1, int.from_bytes(body[:4])))
    if name == b"XML:com.adobe.xmp" and kind == b"iTXt":
        _, _, text = rest[2:].split(b"\0", 2) if rest.count(b"\0", 2) > 1 else (b"", b"", b"")
        return parts._replace(xmp=_unpacked(text) if rest[:1] == b"\1" else text)
    if name == b"Raw profile type exif" and kind in (b"tEXt", b"zTXt") and not parts.exif:
        return parts._replace(exif=_raw_profile(rest if kind == b"tEXt" else _unpacked(rest[1:])))
    return parts


def _raw_profile(text: bytes) -> bytes:
    """Decodes EXIF as ImageMagick writes it: a name, a length and hexadecimal digits, in lines."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode())
    except ValueError:
        return UNREADABLE


def _unpacked(data: bytes) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(data, MAX_UNPACKED)
    except zlib.error:
        return UNREADABLE
    return text if unpacker.eof else UNREADABLE


def _jpeg(data: bytes) -> Parts:
    """Keeps, of the application segments, only JFIF and Adobe, which define the colours."""
    exif, xmp, profile, kept, place = b"", b"", [], [data[:2]], 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 4 <= len(data):
        marker, length = struct.unpack_from(">BH", data, place + 1)
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD7:  # stands alone, or is filling
            place += 1
            continue
        if marker == 0xD8:  # a length is wrong: this is a thumbnail within EXIF
            raise ValueError("another image begins before the pixels of the first")
        if marker in (0xD9, 0xDA):  # the pixels begin
            break
        if length < 2:
            raise ValueError("a segment shorter than its own length")
        body, end = data[place + 4 : place + 2 + length], place + 2 + length
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif += body[6:]
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = body[29:]
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            profile.append(body[12:])
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE) or _of_colours(marker, body):
            kept.append(data[place:end])
        place = end
    rest = data[place:] if place >= 0 else b""
    return Parts(b"".join([*kept, rest]), exif, xmp, _joined(profile) if profile else None, 1)


def _of_colours(marker: int, body: bytes) -> bool:
    """Tells whether a JPEG decoder reads the segment for colours: only if it is long enough."""
    jfif = marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14
    return jfif or (marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12)


def _joined(pieces: list[bytes]) -> bytes:
    """Joins the numbered pieces of a profile: each has its number, the count, the content."""
    count = len(pieces)
    numbers = [(i + 1, count) for i in range(count)]
    pieces = sorted(pieces, key=lambda piece: piece[:1])
    if [tuple(piece[:2]) for piece in pieces] != numbers:
        return UNREADABLE
    return b"".join(piece[2:] for piece in pieces)


def _webp(data: bytes) -> Parts:
    found, kept, place = {}, [], 12
    stop = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while place + 8 < stop:
        kind, size = struct.unpack_from("<4sI", data, place)
        end = place + 8 + size + size % 2
        if kind == b"VP8X":  # without the flags of a profile, EXIF and XMP
            flags = data[place + 8] & ~0b101100
            kept.append(data[place : place + 8] + bytes([flags]) + data[place + 9 : end])
        elif kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            kept.append(data[place:end])
        else:
            found.setdefault(kind, data[place + 8 : place + 8 + size])
        place = end
    body = b"WEBP" + b"".join(kept)
    whole = b"RIFF" + len(body).to_bytes(4, "little") + body
    return Parts(whole, found.get(b"EXIF", b""), found.get(b"XMP ", b""), found.get(b"ICCP"))


def _tiff(data: bytes) -> Parts:
    found = tags.directory(data)
    xmp = found.content(tags.XMP, data) or b""
    frames, profile = tags.images(data, found), found.content(tags.PROFILE, data)
    return Parts(tags.of_pixels(data, found), data, xmp, profile, frames)


def _avif(data: bytes) -> Parts:
    """Renames EXIF so that it is not read; AVIF stores its rotation elsewhere.

    In the list of items (ISO/IEC 14496-12) an entry has a version, flags, a number and a type.
    """
    return Parts(_EXIF_ITEM.sub(rb"\1skip", data))


_EXIF_ITEM = re.compile(rb"(infe[\x02\x03].{3}(?:..|....)\0\0)Exif", re.DOTALL)


def _jp2(data: bytes) -> Parts:
    """Keeps only the header and the stream; Pillow does not look for the profile."""
    kept, profile, place = [], None, 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, place + 8)
        box = data[place : place + length] if length else data[place:]
        if kind in (b"jP  ", b"ftyp", b"jp2h", b"jp2c"):
            kept.append(box)
        if kind == b"jp2h" and (found := _PROFILE_BOX.search(box)):
            profile = box[found.start() + 11 : found.start() + int.from_bytes(found[1])]
        place += max(8, len(box))
    return Parts(b"".join(kept), profile=profile)


_PROFILE_BOX = re.compile(rb"(.{4})colr\x02.{2}", re.DOTALL)
