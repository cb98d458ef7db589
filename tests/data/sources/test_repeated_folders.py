"""Folders as sd-scripts has them: 10_sks cat."""

import pytest
from PIL import Image

from flax_sd.data.sources.folder import list_folder
from flax_sd.data.sources.records import Bad
from flax_sd.errors import UserError
from tests.data.made_folders import image


@pytest.fixture
def kohya(tmp_path):
    """sd-scripts' layout, with and without captions."""
    for name in ("2_sks cat/a.png", "2_sks cat/b.jpg", "10_dog_run/c.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 8)).save(path)
    (tmp_path / "2_sks cat" / "a.txt").write_text("sks cat, sitting")
    (tmp_path / "10_dog_run" / "c.caption").write_text("a dog")
    (tmp_path / "10_dog_run" / "lone.caption").write_text("nobody")
    (tmp_path / "log").mkdir()
    return tmp_path


def test_folders_of_sd_scripts_have_repeats_and_a_class(kohya):
    listing = list_folder(kohya, "text")
    assert [(r.name, r.captions, r.repeats) for r in listing.records] == [
        ("10_dog_run/c.png", ("a dog",), 10),
        ("2_sks cat/a.png", ("sks cat, sitting",), 2),
        ("2_sks cat/b.jpg", ("sks cat",), 2),
    ]
    assert listing.bad == [] and [bad.name for bad in listing.unused] == [
        "log",
        "10_dog_run/lone.caption",
    ]
    assert [r.by_folder for r in listing.records] == [False, False, True]


def test_captions_that_are_not_read_are_named_in_folders_of_sd_scripts_too(kohya):
    (kohya / "2_sks cat" / "b.text").write_text("x")
    (kohya / "10_dog_run" / "c.txt").write_text("y")
    looks = "looks like a caption of {} and is not read"
    assert [
        bad
        for bad in list_folder(kohya, "text").unused
        if bad.name[-3:] in ("ion", "ext") and "lone" not in bad.name
    ] == [
        Bad("10_dog_run/c.caption", f"{looks.format('c.png')}, as c.txt is"),
        Bad("2_sks cat/b.text", f"{looks.format('b.jpg')}: name it b.txt"),
    ]


def test_one_folder_without_a_number_makes_all_of_them_one_set_and_is_named(kohya):
    (kohya / "more").mkdir()
    Image.new("RGB", (9, 8)).save(kohya / "more" / "d.png")
    listing = list_folder(kohya, "text")
    assert [(r.name, r.repeats) for r in listing.records] == [("2_sks cat/a.png", 1)]
    assert len(listing.bad) == 3
    assert [bad.name for bad in listing.unused] == [
        "log",
        "10_dog_run/c.caption",
        "more",
        "10_dog_run/lone.caption",
    ]
    assert "one set without repeats" in listing.unused[2].reason
    (kohya / "2_sks cat" / "a.txt").unlink()
    with pytest.raises(UserError, match="no captions for them.*; more: its name is not as 10_cat"):
        list_folder(kohya, "text")


def test_numbers_of_folders_may_begin_with_zeros(tmp_path):
    """F5's sibling: 005_dog beside 10_cat, as sd-scripts reads it."""
    for name in ("005_dog", "10_cat"):
        image(tmp_path / name / "a.png")
    records, bad, unused = list_folder(tmp_path, "text")
    assert [(each.captions, each.repeats) for each in records] == [(("dog",), 5), (("cat",), 10)]
    assert bad == unused == []
