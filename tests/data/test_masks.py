"""Masks: found, named, cut as their images, and what they make a place of the latents weigh."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from flax_sd.config import DataConfig
from flax_sd.data import batches, check, open_images, place_weights, summary
from flax_sd.errors import UserError

BLACK, WHITE, GREY = 0.0, 1.0, 0.5


def weights(mask, latents, **options):
    """Of one image's latents, by data.mask's options."""
    cfg = DataConfig(mask="file", **options)
    return place_weights(np.array([mask], np.float32), latents, cfg)[0].tolist()


def test_a_place_weighs_what_the_mask_is_in_the_mean_of_its_pixels():
    mask = [[WHITE, BLACK, BLACK, BLACK, GREY, GREY], [WHITE, BLACK, BLACK, BLACK, WHITE, BLACK]]
    assert weights(mask, (1, 3)) == [[0.5, 0, 0.5]]
    assert weights(mask, (2, 3)) == [[0.5, 0, 0.5], [0.5, 0, 0.5]]


def test_what_a_mask_hides_weighs_the_least_weight_and_no_more():
    assert weights([[WHITE, GREY, BLACK]], (1, 3), unmasked_weight=0.25) == [[1, 0.5, 0.25]]
    assert weights([[WHITE, GREY, BLACK]], (1, 3), unmasked_weight=1) == [[1, 1, 1]]


def test_normalised_the_mean_weight_is_one():
    assert weights([[WHITE, BLACK, BLACK, BLACK]], (1, 4), mask_normalised=True) == [[4, 0, 0, 0]]
    both = {"mask_normalised": True, "unmasked_weight": 0.5}
    assert weights([[WHITE, WHITE, BLACK, BLACK]], (1, 4), **both) == pytest.approx(
        np.array([[4, 4, 2, 2]]) / 3
    )


def test_a_black_mask_weighs_nothing_or_all_alike():
    assert weights([[BLACK, BLACK]], (1, 2), mask_normalised=True) == [[0, 0]]
    assert weights([[BLACK, BLACK]], (1, 2), mask_normalised=True, unmasked_weight=0.1) == [[1, 1]]


def half(size, values="L"):
    """White on the left."""
    image = Image.new(values, size)
    image.paste("white", (0, 0, size[0] // 2, size[1]))
    return image


@pytest.fixture
def masked(tmp_path):
    """Noise, upright and lying, whose masks are the same noise, and captions."""
    generator = np.random.default_rng(0)
    for i, shape in enumerate([(40, 23), (21, 37), (16, 16)]):
        image = Image.fromarray(generator.integers(0, 256, shape, np.uint8))
        image.convert("RGB").save(tmp_path / f"{i}.png")
        image.save(tmp_path / f"{i}-masklabel.png")
        (tmp_path / f"{i}.txt").write_text("noise")
    return tmp_path


@pytest.mark.parametrize("buckets", ["none", "area"])
def test_a_mask_is_cut_and_mirrored_as_its_image(masked, config, buckets):
    cfg = config(masked, mask="file", resolution=16, random_flip=True, buckets=buckets)
    images = open_images(cfg)
    assert images.names == ("0.png", "1.png", "2.png")
    seen = list(itertools.islice(batches(images, 2, seed=0), 12))
    for batch in seen:
        np.testing.assert_allclose(batch.mask, (batch.images[..., 0] + 1) / 2, atol=1e-6)
    assert len({batch.mask.tobytes() for batch in seen}) > 6


def test_without_the_option_masks_are_neither_read_nor_images(masked, config):
    images = open_images(config(masked))
    assert images.names == ("0.png", "1.png", "2.png")
    assert images.bad == images.unused == []
    assert next(batches(images, 2, seed=0)).mask is None
    before = images.fingerprint()
    (masked / "0-masklabel.png").unlink()
    assert open_images(config(masked)).fingerprint() == before


def test_masks_are_part_of_the_fingerprint(masked, config):
    before = open_images(config(masked, mask="file")).fingerprint()
    half((23, 40)).save(masked / "0-masklabel.png")
    assert open_images(config(masked, mask="file")).fingerprint() != before


@pytest.mark.parametrize("layout", ["metadata", "captions", "10_class"])
def test_a_mask_is_no_image_of_the_set(tmp_path, config, layout):
    folder = tmp_path / ("10_cat" if layout == "10_class" else "")
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (16, 16)).save(folder / "a.jpg")
    half((16, 16)).save(folder / "a-masklabel.png")
    half((16, 16)).save(folder / "b-masklabel.png")
    if layout == "metadata":
        row = {"file_name": "a.jpg", "text": "a"}
        (folder / "metadata.jsonl").write_text(json.dumps(row))
    if layout == "captions":
        (folder / "a.txt").write_text("a")
    images = open_images(config(tmp_path, mask="file"))
    assert [name.split("/")[-1] for name in images.names] == ["a.jpg"] and images.bad == []
    assert [unused.name.split("/")[-1] for unused in images.unused] == ["b-masklabel.png"]
    assert "a mask without an image" in images.unused[0].reason


def test_what_is_wrong_with_masks_is_named(folder, config):
    half((20, 12)).save(folder / "0-masklabel.png")
    half((40, 24)).save(folder / "1-masklabel.png")
    Image.new("L", (22, 12)).save(folder / "2-masklabel.png")
    (folder / "3-masklabel.png").write_bytes(b"no picture")
    images = open_images(config(folder, mask="file"))
    assert dict(images.bad) == {
        "1.png": "its mask has 40 x 24 pixels and it has 21 x 12: make them alike",
        "3.png": "its mask 3-masklabel.png: not an image that Pillow can read",
    }
    found = {(f.kind, f.name): f.text for f in check(images, None) if "mask" in f.kind}
    assert found == {
        ("black mask", "2.png"): "black everywhere",
        ("no mask", "4.png"): "4-masklabel.png is not beside it",
    }
    assert (images.mask(2, seed=0, sample=0) == 1).all()
    assert "2 masks, 25.0% of their area white" in summary(images, [])


def test_a_mask_that_goes_away_later_is_named(masked, config):
    images = open_images(config(masked, mask="file"))
    (masked / "1-masklabel.png").unlink()
    with pytest.raises(UserError, match=r"1\.png could be read when .*its mask 1-masklabel\.png"):
        images.mask(1, seed=0, sample=0)


def test_what_is_transparent_is_hidden(folder, config):
    image = Image.open(folder / "0.png").convert("RGBA")
    image.putalpha(half(image.size))
    image.save(folder / "0.png")
    images = open_images(config(folder, mask="alpha", center_crop=True, interpolation="box"))
    mask = images.mask(0, seed=0, sample=0)
    assert (mask[:, :4] == 1).all() and (mask[:, 5:] == 0).all()
    assert (images.mask(1, seed=0, sample=0) == 1).all()
    named = {f.name: f.text for f in check(images, None) if f.kind == "no mask"}
    assert named == {f"{i}.png": "it has no transparency" for i in range(1, 5)}


def test_masks_that_hide_nothing_are_refused(folder, config):
    with pytest.raises(UserError, match=r"mask alpha changes nothing: none of the 5 .*transparent"):
        open_images(config(folder, mask="alpha"))
    Image.new("L", (20, 12), "white").save(folder / "0-masklabel.png")
    with pytest.raises(UserError, match=r"mask file changes nothing: none of the 5 images of"):
        open_images(config(folder, mask="file"))
