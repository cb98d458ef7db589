"""Which images are held out, as a set grows and is renamed."""

import shutil

import numpy as np
import pytest
from PIL import Image

from flax_sd import data
from flax_sd.config import DataConfig
from flax_sd.data.split import place
from flax_sd.errors import UserError


def add(folder, count, seed):
    rng = np.random.default_rng(seed)
    for i in range(count):
        image = Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8)).resize((40, 50))
        image.save(folder / f"{seed}-{i}.png")
        (folder / f"{seed}-{i}.txt").write_text(f"{i}")


def divided(folder, share=0.3):
    cfg = DataConfig(path=str(folder), resolution=32)
    fixed = cfg.model_copy(update={"center_crop": True})
    return data.split(data.open_images(cfg), share, fixed)


def shown(images):
    return {seen.shows for seen in images.seen}


def test_files_that_come_and_new_names_move_no_other(tmp_path):
    add(tmp_path, 20, seed=1)
    train, held = divided(tmp_path)
    assert len(train) + len(held) == 20 and 2 <= len(held) <= 10
    assert held.cfg.center_crop and not train.cfg.center_crop
    before = shown(train), shown(held)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / f"renamed {path.name}")
    add(tmp_path, 15, seed=0)
    train, held = divided(tmp_path)
    assert len(train) + len(held) == 35
    assert before[0] <= shown(train) and before[1] < shown(held)


def test_copies_are_never_on_both_sides(tmp_path):
    add(tmp_path, 12, seed=1)
    for path in list(tmp_path.glob("*.png")):
        copy = tmp_path / f"{path.stem} copy.bmp"
        Image.open(path).save(copy)
        shutil.copy(path.with_suffix(".txt"), copy.with_suffix(".txt"))
    train, held = divided(tmp_path)
    assert len(train) + len(held) == 24 and not shown(train) & shown(held)
    assert data.duplicates_across(train, held) == []
    assert len(held) == 2 * len(shown(held))


def test_the_share_is_about_the_one_asked_for():
    places = [place(f"{bits:016x}") for bits in np.random.Philox(key=[0, 0]).random_raw(4000)]
    assert 0 <= min(places) and max(places) < 1
    assert 0.09 < np.mean(np.array(places) < 0.1) < 0.11


def test_an_empty_side_is_refused_and_the_nearest_share_named(tmp_path):
    add(tmp_path, 3, seed=1)
    with pytest.raises(UserError, match=r"none of the 3 images .* from 0\.\d+ on one is") as e:
        divided(tmp_path, 1e-6)
    share = float(str(e.value).split("from ")[1].split(" on")[0])
    assert len(divided(tmp_path, share)[1]) == 1
    with pytest.raises(UserError, match="all of the 3 images"):
        divided(tmp_path, 1 - 1e-9)


def test_what_is_left_out_is_still_told(tmp_path):
    add(tmp_path, 12, seed=1)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "bad.txt").write_text("x")
    train, held = divided(tmp_path)
    assert [bad.name for bad in train.bad] == ["bad.png"] and held.bad == []


def test_two_ways_of_holding_out_are_refused():
    with pytest.raises(ValueError, match="take one"):
        DataConfig(held_out="a", held_out_share=0.1)


def test_one_image_cannot_be_divided(tmp_path, tmp_path_factory):
    """F34: nor can copies of one, nor one with images of its class."""
    add(tmp_path, 1, seed=1)
    with pytest.raises(UserError, match="one image cannot be divided: add others"):
        divided(tmp_path)
    shutil.copy(tmp_path / "1-0.png", tmp_path / "copy.png")
    shutil.copy(tmp_path / "1-0.txt", tmp_path / "copy.txt")
    prior = tmp_path_factory.mktemp("prior")
    add(prior, 9, seed=2)
    cfg = DataConfig(path=str(tmp_path), resolution=32, regularisation=str(prior))
    with pytest.raises(UserError, match="or copies of one, and one image cannot be divided"):
        data.split(data.open_images(cfg), 0.5, cfg)
