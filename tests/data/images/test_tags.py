import struct

import pytest

from flax_sd.data.images.tags import directory, images, orientation


def exif(*entries, order="<", big=False, after=0):
    """A directory of (tag, type, count, value as bytes)."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    if big:
        head += struct.pack(order + "HHQQ", 8, 0, 16, len(entries))
        rows = [struct.pack(order + "HHQ", *row[:3]) + row[3].ljust(8, b"\0") for row in entries]
        return head + b"".join(rows) + struct.pack(order + "Q", after)
    head += struct.pack(order + "IH", 8, len(entries))
    rows = [struct.pack(order + "HHI", *row[:3]) + row[3].ljust(4, b"\0") for row in entries]
    return head + b"".join(rows) + struct.pack(order + "I", after)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_among_other_tags(order, big):
    absurd = (282, 2, 2**31, b"\xff" * 4)  # F23: a rational that says it is text
    for type, format in ((3, "H"), (4, "I"), (1, "B")):
        row = (274, type, 1, struct.pack(order + format, 6))
        assert orientation(exif(absurd, row, order=order, big=big)) == 6


def test_no_orientation():
    assert orientation(exif((305, 2, 4, b"me"))) is None
    assert orientation(exif((274, 3, 1, b"\0\0"))) is None  # cameras write it for "not known"


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "neither II nor MM"),
        (b"garbage and more", "neither II nor MM"),
        (b"II*\0\xff\xff\xff\xff", "past its end"),
        (exif((305, 2, 4, b"me"), (274, 3, 1, b"\6"))[:22], "cut off"),
        (exif((274, 2, 2, b"6\0")), "no whole number"),
        (exif((274, 3, 0, b"")), "no whole number"),
        (exif((274, 3, 1, b"\x09")), "9 is none of 1 to 8"),
    ],
)
def test_an_orientation_that_cannot_be_read_says_why(data, reason):
    """F23."""
    with pytest.raises(ValueError, match=reason):
        orientation(data)


def test_a_ring_of_directories_ends():
    data = exif((256, 3, 1, b"\1"), after=8)
    assert images(data, directory(data)) == 1
