import pathlib

import numpy as np
import pytest
from PIL import Image

from flax_sd.data import open_images
from flax_sd.data.dataset import balance_repeats
from flax_sd.errors import UserError
from tests.threads import meeting


def break_some(folder):
    """Damages images 1 and 3 and removes 4."""
    data = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(data[: len(data) // 2])
    (folder / "3.png").write_bytes(b"")
    (folder / "4.png").unlink()


def test_good_images(folder, config):
    images = open_images(config(folder))
    assert len(images) == 5 and images.bad == []
    assert images.names == ("0.png", "1.png", "2.png", "3.png", "4.png")
    assert images.captions(3) == ("caption 3",)
    pixels = images.load(3, seed=0, sample=9)
    np.testing.assert_allclose(pixels[2, 5], np.array([120, 10, 200]) / 127.5 - 1, atol=1e-6)


def test_bad_images_are_left_out_and_named(folder, config):
    break_some(folder)
    images = open_images(config(folder))
    assert images.names == ("0.png", "2.png")
    assert images.captions(1) == ("caption 2",)
    reasons = dict(images.bad)
    assert list(reasons) == ["1.png", "3.png", "4.png"]
    assert reasons["3.png"] == "the file is empty"
    assert reasons["4.png"] == "no such file or directory"


def test_stop_names_every_bad_image(folder, config):
    break_some(folder)
    with pytest.raises(UserError, match=r"(?s)3 of 5 .*1\.png: .*3\.png: .*4\.png: ") as error:
        open_images(config(folder, on_bad="stop"))
    assert "on_bad=skip" in str(error.value)


def test_all_bad_is_an_error_even_when_skipping(tmp_path, config):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"1 of 1 images cannot be used:\s+a\.jpg: not an image"):
        open_images(config(tmp_path))


def test_too_narrow_an_image_is_found_before_the_run(folder, config):
    Image.new("L", (30_000, 1)).save(folder / "0.png")
    images = open_images(config(folder, resolution=512))
    assert images.bad == [("0.png", "30000 x 1 pixels: too narrow to crop a square from")]


def test_a_image_that_fails_later_is_named(folder, config):
    images = open_images(config(folder))
    break_some(folder)
    with pytest.raises(UserError, match=r"^1\.png could be read when .*damaged"):
        images.load(1, seed=0, sample=0)
    with pytest.raises(UserError, match=r"^4\.png .*no such file"):
        images.load(4, seed=0, sample=0)


def test_a_caption_is_drawn_by_seed_and_sample(tmp_path, config):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    images = open_images(config(tmp_path))
    drawn = [images.caption(0, seed=1, sample=n) for n in range(60)]
    assert drawn == [images.caption(0, seed=1, sample=n) for n in range(60)]
    assert drawn != [images.caption(0, seed=2, sample=n) for n in range(60)]
    assert min(drawn.count(c) for c in ("one", "two", "three")) > 8


def test_no_more_than_so_many_images(folder, config):
    images = open_images(config(folder, max_images=2))
    assert len(images) == 2 and set(images.names) < {f"{i}.png" for i in range(5)}
    assert list(images.names) == sorted(images.names)
    assert set(images.names) < set(open_images(config(folder, max_images=3)).names)
    assert len(open_images(config(folder, max_images=99))) == 5


def test_interpolation(tmp_path, config, noise):
    noise.save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x")
    kinds = ["lanczos", "bicubic", "bilinear", "box", "hamming", "nearest"]
    opened = [open_images(config(tmp_path, interpolation=kind)) for kind in kinds]
    drawn = {images.load(0, seed=0, sample=0).tobytes() for images in opened}
    assert len(drawn) == len(kinds)


def test_background_colour(tmp_path, config):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x")
    pixels = open_images(config(tmp_path, background="#00ff00")).load(0, seed=0, sample=0)
    np.testing.assert_array_equal(pixels[0, 0], [-1, 1, -1])
    with pytest.raises(UserError, match="data.background 'whitte' is not a colour: a name"):
        open_images(config(tmp_path, background="whitte"))


def test_a_wrong_path_says_what_would_be_right(tmp_path, config, monkeypatch):
    with pytest.raises(UserError, match="is not there: data.path names a folder"):
        open_images(config(tmp_path / "nowhere"))
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^data/cats is not there"):
        open_images(config("data/cats"))
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(UserError, match="x.zip is a file, not a folder"):
        open_images(config(tmp_path / "x.zip"))
    with pytest.raises(UserError, match="no bundled:stile; bundled are .*bundled:style"):
        open_images(config("bundled:stile"))
    with pytest.raises(ValueError, match="~nobody-here has no home folder here"):
        config("~nobody-here/x")


def test_a_parquet_beside_metadata_is_ignored(folder, config):
    (folder / "embeddings.parquet").write_bytes(b"something else")
    assert len(open_images(config(folder))) == 5


def test_files_are_opened_by_several_threads(folder, config, monkeypatch):
    monkeypatch.setattr(pathlib.Path, "read_bytes", meeting(pathlib.Path.read_bytes, 5))
    assert len(open_images(config(folder, workers=5))) == 5


@pytest.mark.parametrize("name, count", [("style", 229), ("style_held_out", 12)])
def test_bundled_sets(name, count, config):
    images = open_images(config(f"bundled:{name}", resolution=128, on_bad="stop"))
    assert len(images) == count
    assert all(images.captions(i)[0].endswith(", flat drawing") for i in range(count))
    pixels = images.load(0, seed=0, sample=0)
    np.testing.assert_array_equal(pixels[0, 0], [1, 1, 1])  # drawn on white


def test_held_out_style_shows_other_subjects(config):
    sets = [open_images(config(f"bundled:{n}")) for n in ("style", "style_held_out")]
    seen, held_out = ({p.captions(i)[0] for i in range(len(p))} for p in sets)
    assert not seen & held_out


def test_further_folders_join_the_set_with_repeats_of_their_own(folder, tmp_path_factory, config):
    more = tmp_path_factory.mktemp("more") / "3_cat"
    more.mkdir()
    Image.new("RGB", (20, 12)).save(more / "0.png")
    images = open_images(config(folder, repeats=2, folders={str(more.parent): 4}))
    assert images.names == (*(f"{i}.png" for i in range(5)), f"{more}/0.png")
    assert images.repeats == (2, 2, 2, 2, 2, 12) and images.captions(5) == ("cat",)
    with pytest.raises(UserError, match="nowhere is not there: data.folders names a folder"):
        open_images(config(folder, folders={str(folder / "nowhere"): 1}))


def test_images_for_regularisation_are_as_many_as_the_others(folder, tmp_path_factory, config):
    prior = tmp_path_factory.mktemp("prior") / "1_cat"
    prior.mkdir()
    for i in range(2):
        Image.new("RGB", (20, 12), (i, 0, 0)).save(prior / f"{i}.png")
    options = {"regularisation": str(prior.parent), "prior_weight": 0.5}
    images = open_images(config(folder, **options))
    assert images.names[5:] == (f"{prior.parent}/1_cat/0.png", f"{prior.parent}/1_cat/1.png")
    assert images.repeats == (1, 1, 1, 1, 1, 3, 2)
    assert images.weights == (1, 1, 1, 1, 1, 0.5, 0.5)
    with pytest.raises(ValueError, match="prior_weight without effect"):
        config(folder, prior_weight=0.5)


def test_a_trigger_word_is_not_for_images_of_the_class(folder, tmp_path_factory, config):
    prior = tmp_path_factory.mktemp("prior") / "1_cat"
    prior.mkdir()
    Image.new("RGB", (20, 12)).save(prior / "0.png")
    options = {"regularisation": str(prior.parent), "template": "sks {}"}
    images = open_images(config(folder, **options))
    assert images.captions(5) == ("cat",) and images.caption(5, seed=0, sample=0) == "cat"
    assert images.captions(0)[0].startswith("sks ")
    assert images.caption(0, seed=0, sample=0).startswith("sks ")


def test_repeats_of_regularisation_are_those_of_sd_scripts():
    assert balance_repeats([2, 3, 1, 1], [False, False, True, True]) == (2, 3, 3, 2)
    assert balance_repeats([2, 4, 4, 4], [False, True, True, True]) == (2, 4, 0, 0)
    assert balance_repeats([1, 1, 2, 2], [False, False, True, True]) == (1, 1, 2, 0)
    assert balance_repeats([3, 2], [False, False]) == (3, 2)


@pytest.mark.parametrize("limit", [1, 3])
def test_a_limit_is_that_of_a_run_s_own_images(folder, tmp_path_factory, config, limit):
    """A5."""
    prior = tmp_path_factory.mktemp("prior") / "1_cat"
    prior.mkdir()
    for i in range(9):
        Image.new("RGB", (20, 12), (i, 0, 0)).save(prior / f"{i}.png")
    options = {"regularisation": str(prior.parent), "max_images": limit}
    images = open_images(config(folder, **options))
    assert images.prior == (*[False] * limit, *[True] * 9)
    assert sum(images.repeats) == 2 * limit


def test_all_that_is_wrong_with_many_images_is_cut(tmp_path, config):
    for i in range(30):
        (tmp_path / f"{i}.png").write_bytes(b"x")
        (tmp_path / f"{i}.txt").write_text("x")
    with pytest.raises(UserError, match=r"30 of 30 images cannot be used(?s:.*)and 10 more$"):
        open_images(config(tmp_path))


def test_a_path_that_no_file_can_have_is_refused(tmp_path, config):
    with pytest.raises(UserError, match="data.path .* cannot be read: "):
        open_images(config(tmp_path / ("n" * 300)))
