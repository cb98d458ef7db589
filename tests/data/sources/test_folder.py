"""The images of a folder, and a word for all else in it."""

import os
import unicodedata

import pytest

from flax_sd.data.sources.folder import list_folder
from flax_sd.data.sources.records import Bad
from flax_sd.errors import UserError
from tests.data.made_folders import CONVERT, image


def test_txt_captions_in_nested_folders_one_a_line(tmp_path):
    image(tmp_path / "b.JPG", format="JPEG")
    image(tmp_path / "deep/er/a.png")
    image(tmp_path / ".hidden/c.png")
    (tmp_path / "b.txt").write_text("a cat\n\n  a tabby cat \n")
    (tmp_path / "deep/er/a.txt").write_text("")
    (tmp_path / "notes.txt").write_text("buy milk")
    (tmp_path / ".hidden/c.txt").write_text("x")
    records, bad, unused = list_folder(tmp_path, "text")
    found = [(r.name, r.captions) for r in records]
    assert found == [("b.JPG", ("a cat", "a tabby cat")), ("deep/er/a.png", ("",))]
    assert bad == [] and unused == [
        Bad(".hidden", "hidden, as its name begins with a dot"),
        Bad("notes.txt", "no image of this name is beside it"),
    ]


def test_a_image_without_txt_is_named(tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    (tmp_path / "a.txt").write_text("x")
    assert list_folder(tmp_path, "text").bad == [Bad("b.png", "no caption: b.txt is not beside it")]


def test_a_caption_that_is_not_utf8_leaves_its_image_out(tmp_path):
    for name in ("a", "b"):
        image(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("un chat")
    (tmp_path / "a.txt").write_bytes("fine\nun café".encode("latin-1"))
    records, bad, _ = list_folder(tmp_path, "text")
    assert [record.name for record in records] == ["b.png"]
    assert bad[0].name == "a.png" and "a.txt is not UTF-8 (byte 0xe9 in line 2)" in bad[0].reason


def test_a_folder_of_nothing_or_without_captions_says_what_would_be_right(tmp_path):
    with pytest.raises(UserError, match="holds no images and no captions.*metadata.jsonl"):
        list_folder(tmp_path, "text")
    image(tmp_path / "a.png")
    with pytest.raises(UserError, match="holds 1 images and no captions"):
        list_folder(tmp_path, "text")


STRAYS = ["0.text", "1.txt.txt", "2.cap", "3.caption", "4.png.txt"]


@pytest.fixture
def strays(tmp_path):
    """Five images beside files that look like captions and have other names."""
    for i, name in enumerate(STRAYS):
        image(tmp_path / f"{i}.png")
        (tmp_path / name).write_text("a cat")
    return tmp_path


def test_what_looks_like_a_caption_is_named_with_the_name_that_would_be_read(strays):
    (strays / "5.txt").write_text("a cat")
    image(strays / "5.png")
    (strays / "5.caption").write_text("another")
    (strays / "no image.cap").write_text("x")
    _, bad, unused = list_folder(strays, "text")
    looks = "looks like a caption of {0}.png and is not read"
    why = [f"{looks}: name it {{0}}.txt".format(i) for i in range(5)]
    assert unused == [
        *map(Bad, STRAYS, why),
        Bad("5.caption", f"{looks}, as 5.txt is".format(5)),
        Bad("no image.cap", "no image, and no caption of one"),
    ]
    missing = "no caption: {0}.txt is not beside it, but {1} is: name it {0}.txt"
    assert [each.reason for each in bad] == [
        missing.format(i, name) for i, name in enumerate(STRAYS)
    ]


def test_where_no_caption_is_read_the_error_says_what_looks_like_one(strays):
    hint = "; 0.text: looks like a caption of 0.png and is not read: name it 0.txt, and 4 more"
    with pytest.raises(UserError, match=f"no captions for them.*{hint}"):
        list_folder(strays, "text")


def test_dots_in_the_names_of_images_are_theirs(tmp_path):
    for name in ("a.jpg.png", "a.b.png"):
        image(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("x")
    records, bad, unused = list_folder(tmp_path, "text")
    assert len(records) == 2 and bad == unused == []


def test_jpegs_by_other_names_are_read(tmp_path):
    for name in ("a.jfif", "b.JPE"):
        image(tmp_path / name, format="JPEG")
        (tmp_path / name).with_suffix(".txt").write_text("x")
    records, bad, unused = list_folder(tmp_path, "text")
    assert [record.name for record in records] == ["a.jfif", "b.JPE"] and bad == unused == []


@pytest.mark.parametrize("column", ["text", None])
def test_images_that_are_not_read_are_named_with_what_helps(tmp_path, column):
    image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "more").mkdir()
    for name in ("b.txt", "b.HEIC", "more/c.jxl", "a.heic", "movie.mp4"):
        (tmp_path / name).write_text("x")
    jxl = CONVERT.replace("heic", "jxl")
    assert list_folder(tmp_path, column).unused == [
        *(Bad(name, CONVERT) for name in ("a.heic", "b.HEIC")),
        Bad("more/c.jxl", jxl),
        Bad("movie.mp4", "no image, and no caption of one"),
    ]


@pytest.mark.parametrize("column", ["text", None])
def test_where_there_are_no_others_the_error_says_so(tmp_path, column):
    for name in ("a.heic", "b.heic"):
        (tmp_path / name).write_text("x")
    hint = f"; a.heic: {CONVERT}, and 1 more likewise"
    with pytest.raises(UserError, match=f"holds no images.*{hint}"):
        list_folder(tmp_path, column)


def captioned(folder, *names):
    """Saves images with captions."""
    for name in names:
        image(folder / name)
        (folder / name).with_suffix(".txt").write_text(name)


def used(folder, column="text"):
    return [record.name for record in list_folder(folder, column).records]


def test_links_to_folders_and_files_are_followed(tmp_path):
    """F5."""
    captioned(tmp_path / "elsewhere", "a.png")
    folder = tmp_path / "set"
    captioned(folder, "2_dog/b.png")
    (folder / "10_cat").symlink_to(tmp_path / "elsewhere")
    (folder / "2_dog" / "c.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    found = list_folder(folder, "text")
    assert [(each.name, each.repeats) for each in found.records] == [
        ("10_cat/a.png", 10),
        ("2_dog/b.png", 2),
        ("2_dog/c.png", 2),
    ]
    assert found.bad == found.unused == []


def test_links_to_nothing_and_in_circles_are_named(tmp_path):
    """F5."""
    folder = tmp_path / "set"
    captioned(folder, "a.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "gone folder").symlink_to("nowhere")
    (folder / "gone.txt").symlink_to("nowhere.txt")
    (folder / "around.png").symlink_to("around.png")
    (folder / "again").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path)
    found = list_folder(folder, "text")
    assert [each.name for each in found.records] == ["a.png"]
    left_out = dict(found.bad)
    assert set(left_out) == {"gone.png", "gone folder", "around.png"}
    assert left_out["gone.png"] == "a link to nowhere.png, which is not there"
    assert dict(found.unused) == {
        "gone.txt": "a link to nowhere.txt, which is not there",
        "again": "a link to ., which is read already",
        "up": f"a link to {tmp_path}, which holds this folder",
    }


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """F5."""
    captioned(tmp_path, "a.png", "locked/b.png")
    (tmp_path / "empty").mkdir()
    scan = os.scandir

    def refuse(path):
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list_folder(tmp_path, "text")
    assert found.bad == [("locked", "this folder cannot be read: Permission denied")]
    assert found.unused == [("empty", "an empty folder")]
    with pytest.raises(UserError, match="locked: this folder cannot be read: Permission denied"):
        list_folder(tmp_path / "locked", "text")


def test_what_systems_leave_behind_is_passed_over_and_the_hidden_is_named(tmp_path):
    captioned(tmp_path, "a.png")
    junk = [".DS_Store", "._a.png", "Thumbs.db", "desktop.ini", "@eaDir/a.png", "#recycle/b.png"]
    junk += ["__MACOSX/c.png", ".ipynb_checkpoints/a.png", "lost+found/d.png", "~$notes.docx"]
    for name in (*junk, "README.md", ".hidden.png", ".cache/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert list_folder(tmp_path, "text").unused == [
        (".cache and 1 more", "hidden, as its name begins with a dot")
    ]


def test_other_files_are_named_together(tmp_path):
    captioned(tmp_path, "a.png")
    for name in ("1.npz", "2.npz", "movie.mp4", "s.tar", "more.zip", "captions.json"):
        (tmp_path / name).write_text("x")
    why = dict(list_folder(tmp_path, "text").unused)
    assert why["1.npz and 1 more"] == why["movie.mp4"] == "no image, and no caption of one"
    assert "data.stream" in why["s.tar"] and "unpack it" in why["more.zip"]
    assert "metadata.jsonl" in why["captions.json"] and len(why) == 5
    assert dict(list_folder(tmp_path, None).unused) == why


@pytest.mark.parametrize("column", ["text", None])
def test_other_splits_are_not_trained_on_and_offered(tmp_path, column):
    """F2."""
    captioned(tmp_path, "train/a.png", "test/b.png", "Validation/c.png", "d.png")
    found = list_folder(tmp_path, column)
    assert [record.name for record in found.records] == ["train/a.png"] and not found.bad
    why = dict(found.unused)
    held_out = f"--data.held_out {tmp_path / 'test'} evaluates the loss on it"
    assert why["test"] == f"the test split: not trained on; {held_out}"
    assert "validation split" in why["Validation"] and "move it into train" in why["d.png"]
    assert len(why) == 3 and used(tmp_path / "test", column) == ["b.png"]


def test_folders_that_are_called_as_splits_without_a_train_split_are_folders(tmp_path):
    """F2."""
    captioned(tmp_path, "test/a.png", "val/b.png")
    assert used(tmp_path) == ["test/a.png", "val/b.png"]


def test_captions_are_read_whatever_the_case_of_their_ending(tmp_path):
    """F37."""
    for name in ("a", "b"):
        image(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.TXT").write_text("capitals")
    (tmp_path / "b.txt").write_text("small")
    found = list_folder(tmp_path, "text")
    assert [each.captions for each in found.records] == [("capitals",), ("small",)]
    assert found.unused == [("b.TXT", "looks like a caption of b.png and is not read, as b.txt is")]


def test_control_characters_and_broken_bytes_of_names_are_shown_escaped(tmp_path):
    """F37, F14."""
    captioned(tmp_path, "a\x1b[31m.png", "b\n.png")
    image(tmp_path / "c.png")
    (tmp_path / "c.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/c\xff.png"))
    (tmp_path / "d\x1b.npz").write_text("x")
    found = list_folder(tmp_path, "text")
    assert [each.name for each in found.records] == ["a\\x1b[31m.png", "b\\n.png"]
    assert found.bad[0].name == "c\\udcff.png" and found.unused[0].name == "d\\x1b.npz"
    assert used(tmp_path, None)[-1] == "c\\udcff.png"
    assert all(record.read() for record in found.records)


def test_a_name_too_long_for_its_mask_is_used(tmp_path):
    """F17."""
    captioned(tmp_path, "a.png", f"{'n' * 246}.png")
    assert used(tmp_path) == ["a.png", f"{'n' * 246}.png"]


@pytest.mark.parametrize("sign", ["\u2028", "\x0b", "\x85", "\x0c"])
def test_only_line_feeds_end_a_caption(tmp_path, sign):
    """F4."""
    image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(f"one{sign}two\r\nthree\n", "utf-8", newline="")
    assert list_folder(tmp_path, "text").records[0].captions == (f"one{sign}two", "three")


def test_captions_that_are_no_text_cost_their_image_and_utf16_is_read(tmp_path):
    captioned(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "a.txt").write_text("é", "utf-16")
    (tmp_path / "b.txt").write_bytes(b"a\0b")
    (tmp_path / "c.txt").write_bytes(b"\xed\xa0\xbd")
    found = list_folder(tmp_path, "text")
    assert [each.captions for each in found.records] == [("é",)]
    assert "NUL" in found.bad[0].reason and "is not UTF-8" in found.bad[1].reason


@pytest.mark.parametrize("forms", ["NFC NFD", "NFD NFC"])
def test_a_name_is_found_however_its_letters_are_composed(tmp_path, forms):
    """F28's sibling: a Mac saves é as e and an accent, and archives keep that."""
    ours, theirs = (unicodedata.normalize(form, "café") for form in forms.split())
    image(tmp_path / f"{ours}.png")
    (tmp_path / f"{theirs}.txt").write_text("a cup")
    records, bad, unused = list_folder(tmp_path, "text")
    assert [(each.name, each.captions) for each in records] == [(f"{ours}.png", ("a cup",))]
    assert bad == unused == []
    (tmp_path / f"{theirs}.txt").unlink()
    (tmp_path / "metadata.csv").write_text(f"file_name,text\n{theirs}.png,x\n", "utf-8")
    records, bad, unused = list_folder(tmp_path, "text")
    assert records[0].read() and bad == unused == []


def test_a_table_of_tabs_is_named(tmp_path):
    """F31's sibling: metadata.tsv is not read."""
    image(tmp_path / "a.png")
    (tmp_path / "metadata.tsv").write_text("file_name\ttext\na.png\tx\n")
    with pytest.raises(UserError, match="metadata.tsv: captions are read from metadata.jsonl or"):
        list_folder(tmp_path, "text")


@pytest.mark.parametrize("column", ["text", None])
def test_a_run_in_the_folder_of_its_images_is_no_part_of_them(tmp_path, column):
    """F30's sibling: it would find its own samples among the images on resume, and refuse."""
    captioned(tmp_path, "a.png")
    run = tmp_path / "runs" / "cat"
    image(run / "samples" / "step-000010.png")
    (run / "checkpoints" / "10").mkdir(parents=True)
    for name in ("config.yaml", "environment.json"):
        (run / name).touch()
    listing = list_folder(tmp_path, column)
    assert [record.name for record in listing.records] == ["a.png"] and listing.bad == []
    assert [(each.name, each.reason[:19]) for each in listing.unused] == [
        ("runs/cat", "the folder of a run")
    ]
