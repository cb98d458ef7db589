"""The tags of TIFF, which EXIF is written in too."""

import struct
from typing import NamedTuple

ORIENTATION, PROFILE, XMP = 274, 34675, 700
_SUBFILE = 254  # whose lowest bit says that this is a smaller copy of another image
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # formats of types; the others are no whole numbers
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 11: 4, 13: 4, 16: 8}  # or 8 bytes

# The tags that say how the pixels are packed: sizes, bits, compression and where they lie.
_OF_PIXELS = frozenset([*range(254, 260), 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320])
_OF_PIXELS |= frozenset([*range(322, 326), 338, 339, 347, *range(512, 522), *range(529, 533)])


class Tag(NamedTuple):
    """One entry of a directory."""

    number: int
    type: int
    values: int  # how many
    entry: bytes  # as it is written, whose end is the value or where it lies


class Directory(NamedTuple):
    """The tags of one image."""

    order: str  # of bytes, as struct writes it
    big: bool  # BigTIFF
    start: int
    tags: list[Tag]
    whole: bool  # none of them is cut off
    next: int  # where the next directory lies; 0 after the last

    def integer(self, tag: Tag) -> int:
        """Returns the first number of a tag.

        Raises:
          ValueError: it is of a type that holds no whole numbers.
        """
        if tag.type not in _INTEGERS or not tag.values:
            raise ValueError(f"tag {tag.number} holds no whole number")
        return struct.unpack_from(self.order + _INTEGERS[tag.type], tag.entry, self._value)[0]

    def content(self, number: int, data: bytes) -> bytes | None:
        """Returns the bytes of a tag, fewer if the file ends early; None if there is no such
        tag."""
        for tag in self.tags:
            if tag.number == number:
                size, room = tag.values * _WIDTHS.get(tag.type, 8), len(tag.entry) - self._value
                if size <= room:
                    return tag.entry[self._value :][:size]
                (place,) = struct.unpack_from(self.order + _word(self.big), tag.entry, self._value)
                return data[place : place + size]
        return None

    @property
    def _value(self) -> int:
        return 12 if self.big else 8


def directory(data: bytes, start: int | None = None) -> Directory:
    """Reads the tags of the first image, or of that which begins at `start`.

    Raises:
      ValueError: there are none.
    """
    if data[:2] not in (b"II", b"MM"):
        raise ValueError("it begins with neither II nor MM")
    order, big = "<" if data[:2] == b"II" else ">", 0x2B in data[2:4]
    many, size = order + ("Q" if big else "H"), 20 if big else 12
    try:
        if start is None:
            start = int(struct.unpack_from(order + _word(big), data, 8 if big else 4)[0])
        (count,) = struct.unpack_from(many, data, start)
    except struct.error as error:
        raise ValueError("its tags lie past its end") from error
    first = start + struct.calcsize(many)
    fitting = min(count, (len(data) - first) // size)
    entries = [data[first + i * size : first + (i + 1) * size] for i in range(fitting)]
    tags = [_tag(order + ("HHQ" if big else "HHI"), entry) for entry in entries]
    end = data[first + count * size :][: 8 if big else 4]
    following = int.from_bytes(end, "little" if order == "<" else "big")
    return Directory(order, big, start, tags, fitting == count, following)


def _tag(format: str, entry: bytes) -> Tag:
    number, type, values = struct.unpack_from(format, entry)
    return Tag(number, type, values, entry)


def orientation(data: bytes) -> int | None:
    """Returns the orientation, 1 to 8; None if no tag has one.

    Raises:
      ValueError: what says it cannot be read.
    """
    found = directory(data)
    for tag in found.tags:
        if tag.number == ORIENTATION:
            value = found.integer(tag)
            if value > 8:
                raise ValueError(f"orientation {value} is none of 1 to 8")
            return value or None  # some cameras write 0 for "not known"
    if not found.whole:
        raise ValueError("its tags are cut off")
    return None


def of_pixels(data: bytes, found: Directory) -> bytes:
    """Returns a TIFF file with one directory that holds only the tags that decide the pixels."""
    kept = [tag.entry for tag in found.tags if tag.number in _OF_PIXELS]
    count = struct.pack(found.order + ("Q" if found.big else "H"), len(kept))
    directory = b"".join([count, *kept, bytes(8 if found.big else 4)])  # and none follows
    return data[: found.start] + directory + data[found.start + len(directory) :]


def images(data: bytes, found: Directory) -> int:
    """Returns how many images a TIFF file has from that directory on, without thumbnails."""
    starts, count = {found.start}, 1
    while found.next and found.next not in starts:
        try:
            found = directory(data, found.next)
            small = [found.integer(tag) & 1 for tag in found.tags if tag.number == _SUBFILE]
        except ValueError:
            break
        starts.add(found.start)
        count += not any(small)
    return count


def _word(big: bool) -> str:
    return "Q" if big else "I"
