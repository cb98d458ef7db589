"""The pixels of an image follow from its transform, and from nothing else."""

import numpy as np
import pytest
from PIL import Image

from flax_sd.config import DataConfig
from flax_sd.data import open_images
from flax_sd.data.images.image_file import Draw, Fit, draw
from flax_sd.data.transform import transform_of

SQUARE = Fit((12, 8), (8, 8))  # of the image `noise`
FIRST = Draw(0, 0, 0, 0)


def to_pixels(image, fit, one=FIRST, **options):
    return transform_of(DataConfig(**options), fit, one).pixels(image)


def test_centre_crop_is_the_middle_of_the_resized_image(noise):
    pixels = to_pixels(noise, SQUARE, center_crop=True)
    middle = np.asarray(noise.resize((12, 8), Image.Resampling.LANCZOS))[:, 2:10]
    np.testing.assert_allclose(pixels, middle / 255 * 2 - 1, atol=1e-6)
    assert pixels.dtype == np.float32 and pixels.shape == (8, 8, 3)


def test_a_image_is_cut_to_its_shape(noise):
    pixels = to_pixels(noise, Fit((24, 16), (8, 16)), center_crop=True)
    assert pixels.shape == (16, 8, 3)
    np.testing.assert_allclose(pixels, np.asarray(noise)[:, 8:16] / 255 * 2 - 1, atol=1e-6)


def test_range_is_minus_one_to_one():
    pixels = to_pixels(Image.new("RGB", (8, 8), (0, 255, 0)), Fit((8, 8), (8, 8)))
    np.testing.assert_array_equal(pixels[3, 4], [-1, 1, -1])


def test_random_crops_reach_every_place_and_flips_are_half(noise):
    wide = np.asarray(noise.resize((12, 8), Image.Resampling.LANCZOS)) / 255 * 2 - 1
    lefts, flips = set(), 0
    for sample in range(200):
        one = draw(7, sample)
        pixels = to_pixels(noise, SQUARE, one, random_flip=True)
        flips += one.flip % 2
        if one.flip % 2:
            pixels = pixels[:, ::-1]
        left = one.left % 5
        np.testing.assert_allclose(pixels, wide[:, left : left + 8], atol=1e-6)
        lefts.add(left)
    assert lefts == set(range(5))
    assert 70 < flips < 130


@pytest.mark.parametrize(
    "options",
    [
        {"background": "red"},
        {"interpolation": "nearest"},
        {"resolution": 16},
        {"buckets": "area", "resolution": 16},
        {"random_flip": True},
        {"center_crop": True},
    ],
)
def test_pixels_are_those_of_the_transform_whatever_the_options(tmp_path, noise, options):
    noise.putalpha(Image.linear_gradient("L").resize(noise.size))
    noise.save(tmp_path / "1.png")
    (tmp_path / "1.txt").write_text("noise")
    plain, other = (
        open_images(DataConfig(path=str(tmp_path), **values))
        for values in ({"resolution": 8}, {"resolution": 8, **options})
    )
    sample = next(n for n in range(99) if draw(0, n).flip % 2 and draw(0, n).left % 5 == 4)
    transforms = [images.transform(0, draw(0, sample)) for images in (plain, other)]
    assert transforms[0] != transforms[1]
    for transform in transforms:
        np.testing.assert_array_equal(plain.crop(0, transform), other.crop(0, transform))
    loaded = [images.load(0, seed=0, sample=sample) for images in (plain, other)]
    assert not np.array_equal(*loaded)
    np.testing.assert_array_equal(loaded[1], plain.crop(0, transforms[1]))
