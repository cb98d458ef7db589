"""What becomes of each way to write pixels, against NumPy or the plain equivalent."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from flax_sd.data.images.image_file import BadImage, alpha, decode, mask, read
from tests.data import containers as put
from tests.data.containers import chunk
from tests.data.images import profiles

VALUES = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)  # no two sides alike
WHITE = 255


def saved(image, format="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def pixels(data, background="white"):
    return np.asarray(decode(data, background))


def png(width, height, bits, kind, rows, *chunks):
    """A file byte by byte, for what Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    body = [*chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(body)


def tiff(values, photometric=1, bits=None, sign=1, extra=()):
    """A file of one strip, of height, width and perhaps channels."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    bits = bits or values.dtype.itemsize * 8
    body = values.tobytes()
    wide = struct.pack(f"<{channels}H", *[bits] * channels)
    rows = [
        (256, 3, 1, struct.pack("<H", width)),
        (257, 3, 1, struct.pack("<H", height)),
        (258, 3, channels, wide),
        (259, 3, 1, b"\1\0"),
        (262, 3, 1, bytes([photometric, 0])),
        (273, 4, 1, struct.pack("<I", 8)),
        (277, 3, 1, bytes([channels, 0])),
        (278, 3, 1, struct.pack("<H", height)),
        (279, 4, 1, struct.pack("<I", len(body))),
        (339, 3, channels, bytes([sign, 0]) * channels),
    ]
    rows += [(338, 3, len(extra), struct.pack(f"<{len(extra)}H", *extra))] if extra else []
    padded = body + bytes(len(body) % 2)
    empty = b"II*\0" + struct.pack("<I", 8 + len(padded)) + padded + b"\0\0\0\0\0\0"
    return put.into_tiff(empty, *rows)


def grey(values):
    return np.stack([values] * 3, -1)


INTEGERS = {  # values, white, what is said of it
    "int32 of 8 bits": (
        VALUES.astype(np.int32),
        255,
        "signed 32-bit integer pixels up to 2.., read",
    ),
    "uint32 of 8 bits": (VALUES.astype(np.uint32), 255, "32-bit integer pixels up to 2.., read"),
    "int32 of 16 bits": (VALUES.astype(np.int32) * 257, 65535, "read as 0 to 65535"),
    "int16": (VALUES.astype(np.int16) * 128, 32767, "signed 16-bit .* read as 0 to 32767"),
    "int16 of 8 bits": (VALUES.astype(np.int16), 255, "read as 0 to 255"),
    "uint16": (VALUES.astype(np.uint16) * 257, 65535, None),
    "dark uint16": (VALUES.astype(np.uint16), 65535, None),
}


@pytest.mark.parametrize("kind", INTEGERS)
def test_tiff_of_integers(kind):
    """F37: by its type where that says it, or else by the largest value, which is said."""
    values, white, told = INTEGERS[kind]
    sign = 2 if values.dtype.kind == "i" else 1
    found = read(tiff(values, sign=sign), "white")
    expected = np.round(values * (255 / white))
    np.testing.assert_allclose(np.asarray(found.image), grey(expected), atol=0.5)
    if told is None:
        assert found.notes == ()
    else:
        (note,) = found.notes
        assert note.kind == "guessed range" and re.search(told, note.text)


def test_tiff_of_integers_without_a_range_is_refused():
    for values in (VALUES.astype(np.int32) - 300, VALUES.astype(np.int32) * 70_000):
        with pytest.raises(BadImage, match="signed 32-bit integer pixels from .* save it with"):
            decode(tiff(values, sign=2), "white")
    with pytest.raises(BadImage, match="32-bit float pixels"):
        decode(tiff(VALUES.astype(np.float32), sign=3), "white")


def test_tiff_of_12_bits():
    values = np.array([[0, 4095, 2048, 273]])
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x01, 0x11])
    data = tiff(np.frombuffer(packed, np.uint8)[None], bits=12)
    data = put.into_tiff(data, (256, 3, 1, b"\4\0"))
    np.testing.assert_array_equal(pixels(data), grey(np.round(values * 255 / 4095)))


@pytest.mark.parametrize("bits", [8, 16])
def test_where_white_is_zero(bits):
    values = VALUES if bits == 8 else VALUES.astype(np.uint16) * 257
    np.testing.assert_array_equal(pixels(tiff(values, photometric=0)), grey(255 - VALUES))


COLOURS = np.random.default_rng(1).integers(0, 256, (5, 7, 4), np.uint8)


def over(rgba, background=WHITE):
    share = rgba[..., 3:] / 255
    return share * rgba[..., :3] + (1 - share) * background


def test_premultiplied_alpha():
    """What covers nothing has no colour of its own."""
    values = COLOURS.copy()
    values[..., :3] = np.round(values[..., :3] * (values[..., 3:] / 255))
    expected = values[..., :3] + (255 - values[..., 3:].astype(float))
    rgb = pixels(tiff(values, photometric=2, extra=(1,)))
    np.testing.assert_allclose(rgb, expected, atol=2)
    greys = pixels(tiff(values[..., [0, 3]], extra=(1,)))
    np.testing.assert_allclose(greys, grey(expected[..., 0]), atol=2)


def test_straight_alpha_in_a_tiff():
    np.testing.assert_allclose(
        pixels(tiff(COLOURS, photometric=2, extra=(2,))), over(COLOURS), atol=1
    )
    two = pixels(tiff(COLOURS[..., [0, 3]], extra=(2,)))
    np.testing.assert_allclose(two, grey(over(COLOURS)[..., 0]), atol=1)


def test_16_bits_of_colour():
    values = COLOURS.astype(np.uint16) * 257
    for order, kind, channels in ((">", 2, 3), (">", 6, 4)):
        body = values[..., :channels].astype(f"{order}u2")
        rows = b"".join(b"\0" + row.tobytes() for row in body)
        expected = COLOURS[..., :3] if channels == 3 else over(COLOURS)
        np.testing.assert_allclose(pixels(png(7, 5, 16, kind, rows)), expected, atol=1)
    np.testing.assert_array_equal(
        pixels(tiff(values[..., :3].copy(), photometric=2)), COLOURS[..., :3]
    )
    body = values[..., [0, 3]].astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in body)
    np.testing.assert_allclose(pixels(png(7, 5, 16, 4, rows)), grey(over(COLOURS)[..., 0]), atol=1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png(bits):
    """F37: it is written in the file's bits."""
    most = 2**bits - 1
    key, other = most // 2 if bits > 1 else 1, 0
    row = [key, other, key, other, other, other, other, other]
    packed = sum(value << bits * (7 - i) for i, value in enumerate(row)).to_bytes(bits)
    data = png(8, 1, bits, 0, b"\0" + packed, chunk(b"tRNS", struct.pack(">H", key)))
    shown = pixels(data, "#ff0000")[0]
    for i, value in enumerate(row):
        expected = [255, 0, 0] if value == key else [round(255 * value / most)] * 3
        np.testing.assert_array_equal(shown[i], expected)
    hidden = alpha(data)
    assert hidden is not None
    np.testing.assert_array_equal(np.asarray(hidden)[0] == 0, np.array(row) == key)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_transparent_colour_of_a_png(bits):
    """F37."""
    times = 1 if bits == 8 else 257
    key, other = np.array([200, 100, 50]) * times, np.array([200, 100, 51]) * times
    form = ">6B" if bits == 8 else ">6H"
    rows = b"\0" + struct.pack(form, *key, *other)
    data = png(2, 1, bits, 2, rows, chunk(b"tRNS", struct.pack(">3H", *key)))
    np.testing.assert_array_equal(pixels(data, "#00ff00"), [[[0, 255, 0], [200, 100, 51]]])


def test_palettes_with_transparency():
    image = Image.new("P", (2, 2))
    image.putpalette([255, 0, 0, 0, 0, 255, 9, 8, 7])
    image.putdata([0, 1, 2, 1])
    expected = np.array([[[255, 0, 0], [0, 255, 0]], [[9, 8, 7], [0, 255, 0]]])
    for key in (1, b"\xff\0\xff"):
        data = saved(image, transparency=key)
        np.testing.assert_array_equal(pixels(data, "#00ff00"), expected)
    np.testing.assert_array_equal(pixels(saved(image, "GIF", transparency=1), "#00ff00"), expected)
    half = saved(image, transparency=b"\x80")
    np.testing.assert_allclose(pixels(half)[0, 0], [255, 127, 127], atol=1)


def test_one_bit():
    values = (VALUES > 99).astype(np.uint8) * 255
    image = Image.fromarray(values).convert("1")
    for format in ("PNG", "TIFF", "BMP", "GIF", "PPM"):
        np.testing.assert_array_equal(pixels(saved(image, format)), grey(values))
    np.testing.assert_array_equal(pixels(saved(image, "TIFF", compression="group4")), grey(values))


def test_grey_with_alpha():
    image = Image.merge("LA", [Image.fromarray(COLOURS[..., i].copy()) for i in (0, 3)])
    for format in ("PNG", "TIFF", "TGA"):
        shown = pixels(saved(image, format))
        np.testing.assert_allclose(shown, grey(over(COLOURS)[..., 0]), atol=1)


def test_ycbcr():
    image = Image.fromarray(COLOURS[..., :3].copy()).convert("YCbCr")
    y, cb, cr = np.moveaxis(np.asarray(image).astype(float), -1, 0)
    expected = np.stack(
        [
            y + 1.402 * (cr - 128),
            y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
            y + 1.772 * (cb - 128),
        ],
        -1,
    ).clip(0, 255)
    np.testing.assert_allclose(pixels(saved(image, "TIFF")), expected, atol=1.5)


def test_lab():
    """TIFF keeps a and b with their signs."""
    for lab in ((60, 20, -30), (50, 0, 0), (100, 0, 0), (80, -40, 40)):
        raw = np.array([[[round(lab[0] * 2.55), *lab[1:]]]]).astype(np.int64) & 255
        shown = pixels(tiff(raw.astype(np.uint8), photometric=8))
        np.testing.assert_allclose(shown[0, 0], profiles.from_lab(lab), atol=3)


def test_cmyk_without_a_profile():
    inks = COLOURS.astype(float)
    expected = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    image = Image.frombytes("CMYK", (7, 5), COLOURS.tobytes())
    np.testing.assert_allclose(pixels(saved(image, "TIFF")), expected, atol=2)
    np.testing.assert_allclose(pixels(tiff(COLOURS, photometric=5)), expected, atol=2)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_with_a_profile(format):
    """F9."""
    ink = (255, 0, 0, 0)
    data = saved(Image.new("CMYK", (16, 16), ink), format, icc_profile=profiles.cmyk("Some press"))
    expected = profiles.from_lab(profiles.INKS[ink])
    np.testing.assert_allclose(pixels(data)[8, 8], expected, atol=5)


@pytest.mark.parametrize("marker", ["Adobe's", "none", "cut off", "of YCCK"])
def test_cmyk_in_a_jpeg_has_the_polarity_of_adobe(marker):
    """F37: with the marker or without, as in browsers."""
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink
    data = saved(image, "JPEG", quality=95)
    place = data.index(b"\xff\xee")
    own = data[place : place + 16]
    new = {"Adobe's": own, "none": b"", "cut off": own[:2] + b"\0\7Adobe", "of YCCK": own}[marker]
    data = data.replace(own, new)
    shown = pixels(data)[8, 8]
    np.testing.assert_allclose(shown, [255, 0, 0], atol=5)


def test_bmp_with_alpha():
    """It has alpha if it says so, in a header that can say it."""
    body = COLOURS[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    for size, packing, rest, expected in (
        (108, 3, masks.ljust(68, b"\0"), over(COLOURS)),
        (40, 0, b"", COLOURS[..., :3]),
    ):
        head = struct.pack("<IiiHHI20x", size, 7, 5, 1, 32, packing) + rest
        start = struct.pack("<IHHI", 14 + size + len(body), 0, 0, 14 + size)
        np.testing.assert_allclose(pixels(b"BM" + start + head + body), expected, atol=1)


@pytest.mark.parametrize("kind", ["ICO", "CUR"])
def test_an_icon_with_another_name(kind):
    image = Image.fromarray(np.tile(COLOURS, (4, 3, 1))[:16, :16].copy())
    data = saved(image, "ICO", sizes=[(16, 16)], bitmap_format="bmp")
    if kind == "CUR":
        data = data[:2] + b"\2" + data[3:]
    np.testing.assert_allclose(pixels(data), over(np.asarray(image)), atol=1)


def test_16_bit_formats_beside_png_and_tiff():
    image = Image.fromarray(VALUES.astype(np.uint16) * 257)
    for format, options in (("PPM", {}), ("JPEG2000", {"irreversible": False})):
        np.testing.assert_array_equal(pixels(saved(image, format, **options)), grey(VALUES))
    few = b"P5 3 1 1023\n" + struct.pack(">3H", 0, 1023, 512)
    np.testing.assert_allclose(pixels(few)[0, :, 0], [0, 255, 127.6], atol=0.6)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF"])
def test_a_file_that_lacks_a_few_bytes_is_whole_or_refused(format):
    image = Image.fromarray(np.tile(COLOURS[..., :3], (8, 8, 1)))
    image = image.quantize(32) if format == "GIF" else image
    data = saved(image, format, **({"lossless": True} if format == "WEBP" else {}))
    for missing in (1, 2, 4, 12):
        try:
            shown = pixels(data[:-missing])
        except BadImage:
            continue
        np.testing.assert_array_equal(shown, pixels(data))


def test_a_profile_does_not_change_a_mask():
    profile = profiles.grey("Gray Gamma 1.0", 1.0)
    data = saved(Image.fromarray(VALUES), icc_profile=profile)
    np.testing.assert_array_equal(np.asarray(mask(data)), VALUES)
    assert read(data, "white").notes[0].kind == "converted"


def test_transparency_stays_where_a_profile_is_followed():
    """F9."""
    image = Image.fromarray(COLOURS)
    data = saved(image, icc_profile=profiles.ADOBE_RGB)
    converted = profiles.from_rgb(COLOURS[..., :3], profiles.ADOBE, profiles.ADOBE_GAMMA)
    rgba = np.concatenate([converted, COLOURS[..., 3:]], -1)
    np.testing.assert_allclose(pixels(data), over(rgba), atol=2.5)
    wide = Image.fromarray(VALUES.astype(np.uint16) * 257)
    data = saved(wide, icc_profile=profiles.grey("Gray Gamma 1.8", 1.8))
    expected = profiles.from_rgb(grey(VALUES), profiles.SRGB, 1.8)
    np.testing.assert_allclose(pixels(data), expected, atol=1.5)
