"""Metadata never decides over pixels, whatever the format and whatever is the matter with it."""

import io
import random
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from flax_sd.data.images.image_file import BadImage, decode, read
from tests.data import containers as put
from tests.data.images import profiles
from tests.data.images.test_tags import exif

SIZE = (24, 16)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))
HUGE = random.Random(0).randbytes(2_500_000)
TURNED = exif((274, 3, 1, b"\6"))
CONTENTS = {
    "empty": b"",
    "garbage": bytes(range(255, -1, -1)) * 3,
    "cut off": exif((305, 2, 4, b"me"), (306, 2, 9, b"\x26"))[:25],
    "huge": HUGE,
    "a bomb": zlib.compress(bytes(20_000_000), 1),
    "no numbers": exif((282, 2, 2**31, b"\xff" * 4), (283, 2, 8, b"\x1a"), (274, 2, 2, b"6")),
    "turned by 99": exif((274, 3, 1, b"\x63")),
    "a ring": exif((256, 3, 1, b"\1"), after=8),
    "night": profiles.rgb("night", 0.01 * np.array(profiles.SRGB), 2.2),
    "half a profile": profiles.ADOBE_RGB[:300],
    "names": b"transparency\0interlace\0bbox",
}


def saved(format, image=NOISE, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


PLAIN = {
    "PNG": saved("PNG"),
    "JPEG": saved("JPEG", quality=90),
    "progressive JPEG": saved("JPEG", quality=90, progressive=True),
    "CMYK JPEG": saved("JPEG", NOISE.convert("CMYK"), quality=90),
    "WebP": saved("WEBP", lossless=True),
    "lossy WebP": saved("WEBP"),
    "TIFF": saved("TIFF"),
    "packed TIFF": saved("TIFF", compression="tiff_lzw"),
    "GIF": saved("GIF", NOISE.quantize(16)),
    "JPEG 2000": saved("JPEG2000"),
}


def text(kind):
    return lambda data, content: put.into_png(data, put.chunk(kind, content))


def tag(number, kind=7):
    return lambda data, content: put.into_tiff(data, (number, kind, len(content), content))


def marked(marker, name):
    return lambda data, content: put.into_jpeg(data, *put.segments(marker, name, content))


def riff(kind):
    return lambda data, content: put.into_webp(data, SIZE, kind, content)


IPTC = b"Photoshop 3.0\x008BIM\4\4\0\0"
JPEG = {
    "EXIF": marked(0xE1, b"Exif\0\0"),
    "XMP": marked(0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    "profile": lambda data, content: put.into_jpeg(data, *put.profile_segments(content)),
    "pieces of a profile": marked(0xE2, b"ICC_PROFILE\0\3\2"),
    "comment": marked(0xFE, b""),
    "IPTC": marked(0xED, IPTC),
    "no IPTC": marked(0xED, b"Photoshop 3.0\x008BIM"),
    "thumbnail": marked(0xE0, b"JFXX\0\x10"),
    "several pictures": marked(0xE2, b"MPF\0"),
    "short JFIF": lambda data, content: put.into_jpeg(data, put.segment(0xE0, b"JFIF\0")),
    "short Adobe": lambda data, content: put.into_jpeg(data, put.segment(0xEE, b"Adobe")),
}
WEBP = {"EXIF": riff(b"EXIF"), "XMP": riff(b"XMP "), "profile": riff(b"ICCP")}
TIFF = {
    "EXIF": tag(34665),
    "EXIF elsewhere": lambda data, _: put.into_tiff(data, (34665, 4, 1, b"\xff\xff\xff\x7f")),
    "GPS": lambda data, _: put.into_tiff(data, (34853, 4, 1, b"\x08\0\0\0")),
    "XMP": tag(700, 1),
    "profile": tag(34675),
    "IPTC": tag(33723, 4),
    "Photoshop": tag(34377),
    "description": tag(270, 2),
    "thumbnails": tag(330, 4),
    "resolution": tag(282, 5),
    "a date of numbers": tag(306, 12),
}
PNG = {kind: text(kind.encode()) for kind in ("eXIf", "tEXt", "zTXt", "iTXt", "iCCP", "tIME")}
PNG |= {kind: text(kind.encode()) for kind in ("gAMA", "cHRM", "sRGB", "pHYs", "acTL", "fcTL")}
PNG |= {
    "named text": lambda data, content: put.into_png(
        data,
        *(put.chunk(b"tEXt", key + b"\0" + content[:99]) for key in CONTENTS["names"].split(b"\0")),
    ),
    "long text": lambda data, content: put.into_png(
        data, put.chunk(b"zTXt", b"workflow\0\0" + zlib.compress(content))
    ),
    "packed": lambda data, content: put.into_png(data, put.chunk(b"zTXt", b"x\0\0" + content)),
    "international text": lambda data, content: put.into_png(
        data, put.chunk(b"iTXt", b"prompt\0\0\0\0\0" + content)
    ),
    "XMP": lambda data, content: put.into_png(
        data, put.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + content)
    ),
    "raw EXIF": lambda data, content: put.into_png(
        data, put.chunk(b"tEXt", b"Raw profile type exif\0\nexif\n9\n" + content)
    ),
    "profile": lambda data, content: put.into_png(
        data, put.chunk(b"iCCP", b"icc\0\0" + zlib.compress(content))
    ),
    "bad sum": lambda data, content: put.into_png(data, put.chunk(b"tEXt", content)[:-4] + b"sum!"),
    "long length": lambda data, content: put.into_png(
        data, b"\x7f\xff\xff\xfftEXt" + content + b"sum!"
    ),
    "short length": lambda data, content: put.into_png(
        data, b"\0\0\0\1tEXt" + content + b"\0" * 9 + b"sum!"
    ),
}
BLOCKS = {
    "PNG": PNG,
    "JPEG": JPEG,
    "progressive JPEG": JPEG,
    "CMYK JPEG": JPEG,
    "WebP": WEBP,
    "lossy WebP": WEBP,
    "TIFF": TIFF,
    "packed TIFF": TIFF,
}
EVERY = [(format, block) for format, blocks in BLOCKS.items() for block in blocks]


@pytest.mark.parametrize("format, block", EVERY)
def test_metadata_never_decides_over_pixels(format, block):
    """F22, F23 and their kind (6): the same pixels as without, and at most a finding."""
    expected = np.asarray(decode(PLAIN[format], "white"))
    for name, content in CONTENTS.items():
        found = read(BLOCKS[format][block](PLAIN[format], content), "white")
        np.testing.assert_array_equal(np.asarray(found.image), expected, err_msg=name)
        kinds = [note.kind for note in found.notes]
        assert set(kinds) <= {"unknown orientation", "unknown colours"}, name
        assert len(kinds) == len(set(kinds)) and not found.turned, name


@pytest.mark.parametrize("name", CONTENTS)
def test_metadata_of_other_formats(name):
    """F22, F23 and their kind (6)."""
    content = CONTENTS[name]
    jp2, ppm = PLAIN["JPEG 2000"], saved("PPM")
    place = jp2.index(b"jp2h") - 4
    box = (len(content) + 8).to_bytes(4) + b"uuid" + content
    quiet = {"xmp": content, "icc_profile": content, "quality": 100}
    files = {
        "GIF": saved("GIF", NOISE.quantize(16), comment=content[:200_000]),
        "JPEG 2000": saved("JPEG2000", comment=content[:65_000].replace(b"\0", b" ")),
        "boxed JPEG 2000": jp2[:place] + box + jp2[place:],
        "PPM": ppm[:3] + b"#" + b"".join(content[:200_000].splitlines()) + b"\n" + ppm[3:],
        "AVIF": saved("AVIF", **{key: value for key, value in quiet.items() if value}),
    }
    plain = {"PPM": ppm, "AVIF": saved("AVIF", quality=100), "boxed JPEG 2000": jp2}
    for format, data in files.items():
        found = read(data, "white")
        expected = np.asarray(decode(plain.get(format) or PLAIN[format], "white"))
        np.testing.assert_array_equal(found.image, expected, err_msg=format)
        assert {note.kind for note in found.notes} <= {"unknown colours"}


@pytest.mark.parametrize("damage", ["none", "flipped", "empty"])
def test_exif_of_an_avif(damage):
    """F23: AVIF says how it is turned by itself, as its standard has it."""
    for orientation in (1, 6):
        mine = Image.Exif()
        mine[0x0112], mine[0x0131] = orientation, "a program of mine"
        data = saved("AVIF", exif=mine, quality=100)
        place = data.index(b"a program of mine")
        if damage != "none":
            new = b"\xff" * 40 if damage == "flipped" else bytes(40)
            data = data[: place - 30] + new + data[place + 10 :]
        found = read(data, "white")
        whole = np.asarray(decode(saved("AVIF", quality=100), "white"))
        expected = np.rot90(whole, -1) if orientation == 6 else whole
        np.testing.assert_array_equal(found.image, expected)
        assert found.turned == (orientation == 6) and not found.notes


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WebP", "TIFF"])
def test_what_is_whole_is_heeded_beside_what_is_damaged(format):
    """F9, F23: a profile and an orientation."""
    plain = np.asarray(decode(PLAIN[format], "white"))
    blocks = BLOCKS[format]
    data = blocks["profile"](PLAIN[format], profiles.ADOBE_RGB)
    found = read(data, "white")
    assert [tuple(note) for note in found.notes] == [("converted", "from Adobe RGB (1998) to sRGB")]
    expected = profiles.from_rgb(plain, profiles.ADOBE, profiles.ADOBE_GAMMA)
    assert np.abs(np.asarray(found.image) - expected).max() < 2.5
    if format == "WebP":
        return
    turn = blocks["eXIf" if format == "PNG" else "EXIF"]
    if format == "TIFF":

        def turn(data, _):
            return put.into_tiff(data, (274, 3, 1, b"\6"))

    turned = read(turn(data, TURNED), "white")
    assert turned.turned and turned.notes == found.notes
    np.testing.assert_array_equal(turned.image, np.rot90(found.image, -1))


def test_profiles_of_avif_and_jpeg_2000():
    """F9."""
    plain = saved("JPEG2000")
    place = plain.index(b"colr") - 4
    length = int.from_bytes(plain[place : place + 4])
    box = b"colr\2\0\0" + profiles.ADOBE_RGB
    box = (len(box) + 4).to_bytes(4) + box
    head = plain.index(b"jp2h") - 4
    more = int.from_bytes(plain[head : head + 4]) + len(box) - length
    jp2 = plain[:head] + more.to_bytes(4) + plain[head + 4 : place] + box + plain[place + length :]
    avif = saved("AVIF", quality=100, icc_profile=profiles.ADOBE_RGB)
    for data, own in ((jp2, plain), (avif, saved("AVIF", quality=100))):
        found = read(data, "white")
        assert [note.kind for note in found.notes] == ["converted"]
        colours = np.asarray(decode(own, "white"))
        expected = profiles.from_rgb(colours, profiles.ADOBE, profiles.ADOBE_GAMMA)
        assert np.abs(np.asarray(found.image) - expected).max() < 2.5


def test_xmp_says_how_an_image_is_turned_where_exif_does_not():
    """F23."""
    xmp = b'<x tiff:Orientation="6"/>'
    for format in ("PNG", "JPEG", "WebP", "TIFF"):
        content = zlib.compress(xmp) if format == "PNG" else xmp
        found = read(BLOCKS[format]["XMP"](PLAIN[format], content), "white")
        assert found.turned and not found.notes
        plain = decode(PLAIN[format], "white")
        np.testing.assert_array_equal(found.image, np.rot90(plain, -1))


def test_a_thumbnail_is_never_taken_for_the_image():
    """A damaged length before it leads into EXIF, where another JPEG is."""
    small = saved("JPEG", NOISE.reduce(4))
    data = put.into_jpeg(PLAIN["JPEG"], put.segment(0xE1, b"Exif\0\0" + TURNED + small))
    for length in (b"\0\2", b"\0\0", b"\0\x18", b"\xff\xff"):
        with pytest.raises(BadImage):
            decode(data[:4] + length + data[6:], "white")


def test_exif_in_the_way_of_imagemagick():
    lines = b"\nexif\n  50\n" + TURNED.hex().encode()
    for content in (lines, lines + b"\n"):
        data = put.into_png(
            PLAIN["PNG"], put.chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(content))
        )
        assert read(data, "white").turned


def test_a_large_profile_is_used():
    """F22: 1.5 MB, as those of presses have."""
    profile = profiles.ADOBE_RGB + HUGE[:1_500_000]
    profile = len(profile).to_bytes(4) + profile[4:]
    for format in ("PNG", "JPEG", "WebP", "TIFF"):
        (note,) = read(BLOCKS[format]["profile"](PLAIN[format], profile), "white").notes
        assert note.kind == "converted"


def test_a_bomb_in_a_text_takes_no_memory():
    """F22: 60 MB of zeros, in what is not read and in what is."""
    bomb = zlib.compress(bytes(60_000_000), 1)
    data = put.into_png(
        PLAIN["PNG"],
        put.chunk(b"zTXt", b"workflow\0\0" + bomb),
        put.chunk(b"iTXt", b"prompt\0\1\0\0\0" + bomb),
        put.chunk(b"iCCP", b"icc\0\0" + bomb),
        put.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb),
    )
    tracemalloc.start()
    try:
        found = read(data, "white")
        assert tracemalloc.get_traced_memory()[1] < 45e6
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found.image, NOISE)
    assert [note.kind for note in found.notes] == ["unknown colours"]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WebP", "packed TIFF"])
def test_what_is_cut_off_in_its_pixels_is_still_damaged(format):
    data = PLAIN[format]
    with pytest.raises(BadImage):
        decode(data[: len(data) // 2], "white")


def test_what_an_animated_png_says_of_its_frames():
    data = put.into_png(PLAIN["PNG"], put.chunk(b"acTL", b"\0\0\0\5\0\0\0\0"))
    assert read(data, "white").frames == 5 and read(PLAIN["PNG"], "white").frames == 1


def test_a_thumbnail_behind_a_tiff_is_no_frame():
    frames = [NOISE, NOISE.reduce(2)]
    data = saved("TIFF", save_all=True, append_images=frames[1:])
    assert read(data, "white").frames == 2
    small = Image.new("RGB", (2, 2))
    second = saved("TIFF", save_all=True, append_images=[small], tiffinfo={254: 1})
    assert read(second, "white").frames == 1
    np.testing.assert_array_equal(decode(second, "white"), NOISE)
