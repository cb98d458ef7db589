"""Files of several images are their first one."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from flax_sd.data.images.image_file import read

COLOURS = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)


def saved(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("transparent", [False, True])
def test_a_gif_whose_frame_is_smaller_than_its_canvas(transparent):
    """Browsers show nothing where the first frame is not."""
    palette = bytes([255, 0, 0, 0, 0, 255])
    head = b"GIF89a" + struct.pack("<HHBBB", 4, 3, 0x80, 0, 0) + palette
    control = b"!\xf9\4\1\0\0\0\0" if transparent else b""  # red is transparent
    frame = b"," + struct.pack("<HHHHB", 1, 1, 2, 1, 0)
    codes = 4 | 1 << 3 | 0 << 6 | 5 << 9  # clear, blue, red, end
    codes = b"\2\2" + codes.to_bytes(2, "little") + b"\0;"
    data = head + control + frame + codes
    expected = np.zeros((3, 4, 3), np.uint8) + np.array([0, 255, 0], np.uint8)
    expected[1, 1] = [0, 0, 255]
    expected[1, 2] = [0, 255, 0] if transparent else [255, 0, 0]
    np.testing.assert_array_equal(read(data, "#00ff00").image, expected)


def test_the_first_frame_whatever_comes_after_it():
    frames = [Image.new("RGBA", (6, 4), c) for c in ("red", (0, 0, 255, 90), (0, 0, 0, 0))]
    for format in ("GIF", "PNG", "WEBP"):
        for disposal in (1, 2) if format != "WEBP" else (0,):
            options = {"disposal": disposal} if disposal else {"lossless": True}
            data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
            found = read(data, "white")
            assert found.frames == 3
            np.testing.assert_array_equal(found.image, np.full((4, 6, 3), [255, 0, 0]))


def test_a_jpeg_of_several_images_is_the_first():
    """Phones write a depth map or another exposure behind the image."""
    first = Image.fromarray(np.tile(COLOURS, (8, 8, 1)))
    data = saved(first, "MPO", save_all=True, append_images=[Image.new("RGB", first.size)])
    found = read(data, "white")
    assert found.frames == 1
    np.testing.assert_array_equal(found.image, read(saved(first, "JPEG"), "white").image)
