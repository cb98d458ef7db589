"""What SDXL's UNet is told of each image: its size, and the crop that the pixels show."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flax_sd.config import DataConfig
from flax_sd.data import batches, open_images
from flax_sd.data.images.image_file import Draw, Fit
from flax_sd.data.transform import PixelTransform, transform_of

SIDES = st.integers(40, 200)


def map_of_places(width, height):
    """An image whose red tells how far right, and whose green how far down, a pixel is."""
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([across, down, 0 * down], -1).round().astype(np.uint8))


def crop_shown(pixels, resized):
    """Top and left of a crop in the resized image as it is shown, found in the pixels alone."""
    red, green = ((pixels[0, 0, c] + 1) / 2 for c in (0, 1))
    mirrored = pixels[0, -1, 0] < pixels[0, 0, 0]
    left = (1 - red if mirrored else red) * (resized[0] - 1)
    return green * (resized[1] - 1), left


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(SIDES, SIDES),
    shape=st.tuples(st.integers(16, 40), st.integers(16, 40)),
    draw=st.builds(Draw, *[st.integers(0, 2**62)] * 4),
    center=st.booleans(),
    flip=st.booleans(),
)
def test_the_crop_is_the_one_that_the_pixels_show(size, shape, draw, center, flip):
    """Trap 14: with random crops and mirror images, where sd-scripts and SimpleTuner were wrong."""
    cfg = DataConfig(center_crop=center, random_flip=flip, interpolation="bilinear")
    fit = Fit((shape[0] + size[0] % 17, shape[1] + size[1] % 13), shape)
    transform = transform_of(cfg, fit, draw)
    height, width, top, left, target_height, target_width = transform.time_ids(size).tolist()
    assert (width, height) == size and (target_width, target_height) == shape
    pixels = transform.pixels(map_of_places(*size))
    assert crop_shown(pixels, fit.resized) == pytest.approx((top, left), abs=1.5)


def test_the_mirror_image_of_one_without_its_left_edge_has_no_right_edge():
    own = PixelTransform("white", Fit((48, 32), (32, 32)), "bilinear", 4, 0, mirrored=False)
    assert own.time_ids((96, 64)).tolist() == [64, 96, 0, 4, 32, 32]
    assert own._replace(mirrored=True).time_ids((96, 64)).tolist() == [64, 96, 0, 12, 32, 32]


@pytest.mark.parametrize("options", [{}, {"buckets": "area"}], ids=["square", "buckets"])
def test_a_batch_carries_those_of_its_images(tmp_path, options):
    sizes = [(150, 90), (90, 150), (120, 120)]
    for i, size in enumerate(sizes):
        map_of_places(*size).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("places")
    cfg = DataConfig(path=str(tmp_path), resolution=64, random_flip=True, **options)
    images = open_images(cfg)
    for batch in batches(images, 2, seed=3, stop_step=6):
        for i, pixels, ids in zip(batch.indices, batch.images, batch.time_ids, strict=True):
            width, height = sizes[i]
            assert ids[:2].tolist() == [height, width]
            assert ids[4:].tolist() == list(pixels.shape[:2])
            shown = crop_shown(pixels, images.fits[i].resized)
            assert shown == pytest.approx(ids[2:4].tolist(), abs=1.5)
