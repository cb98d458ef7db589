"""Puts metadata of any content into the files of images, byte by byte."""

import struct
import zlib

PIECE = 65_000  # of what one segment of a JPEG holds


def chunk(kind, content):
    """A chunk of a PNG."""
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def into_png(data, *chunks):
    """Behind the header."""
    return data[:33] + b"".join(chunks) + data[33:]


def segment(marker, content):
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def into_jpeg(data, *segments):
    """Behind the first marker."""
    return data[:2] + b"".join(segments) + data[2:]


def segments(marker, name, content):
    """As many segments as the content takes."""
    pieces = [content[i : i + PIECE] for i in range(0, len(content), PIECE)] or [b""]
    return [segment(marker, name + piece) for piece in pieces]


def profile_segments(content):
    """A profile in numbered pieces."""
    pieces = [content[i : i + PIECE] for i in range(0, len(content), PIECE)] or [b""]
    numbers = [b"ICC_PROFILE\0" + bytes([i + 1, len(pieces)]) for i in range(len(pieces))]
    return [segment(0xE2, n + piece) for n, piece in zip(numbers, pieces, strict=True)]


def into_webp(data, size, kind, content):
    """A chunk of a WebP; those of profiles come before the pixels, others behind them."""
    flags = {b"ICCP": 0x20, b"EXIF": 8, b"XMP ": 4}[kind]
    width, height = ((side - 1).to_bytes(3, "little") for side in size)
    head = b"VP8X" + struct.pack("<IB3x", 10, flags) + width + height
    own = kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    pixels = data[12:]
    parts = [head, own, pixels] if kind == b"ICCP" else [head, pixels, own]
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def into_tiff(data, *rows):
    """Tags of a TIFF of Intel's order: number, type, count, and content."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    taken = {row[0] for row in rows}
    entries = [data[start + 2 + 12 * i :][:12] for i in range(count)]
    entries = [entry for entry in entries if struct.unpack_from("<H", entry)[0] not in taken]
    for number, kind, many, content in rows:
        value = content.ljust(4, b"\0")
        if len(content) > 4:
            value, data = struct.pack("<I", len(data)), data + content + bytes(len(content) % 2)
        entries.append(struct.pack("<HHI", number, kind, many) + value)
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry))
    place = len(data)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack("<I", place) + data[8:] + directory
