import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flax_sd.data.records import Bad, caption_tuple, list_folder
from flax_sd.errors import UserError


def write_rows(folder, *rows):
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")


def picture(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), "red").save(path, **options)


def test_jsonl_ignores_other_files_and_further_keys(tmp_path):
    picture(tmp_path / "sub/a.png")
    picture(tmp_path / "not named.png")
    (tmp_path / "readme.md").write_text("x")
    write_rows(tmp_path, {"file_name": "sub/a.png", "text": "é", "score": 3, "tags": ["x"]})
    records, bad, unused = list_folder(tmp_path, "text")
    assert [(r.name, r.captions) for r in records] == [("sub/a.png", ("é",))]
    assert records[0].read() == (tmp_path / "sub/a.png").read_bytes()
    assert bad == [] and unused == [Bad("not named.png", "metadata.jsonl does not name it")]


def test_jsonl_may_hold_blank_lines_a_byte_order_mark_and_several_captions(tmp_path):
    rows = '\ufeff{"file_name": "a.png", "say": ["one", "two"]}\n\n{"file_name":"b.png","say":""}\n'
    (tmp_path / "metadata.jsonl").write_text(rows, "utf-8")
    records, *_ = list_folder(tmp_path, "say")
    assert [r.captions for r in records] == [("one", "two"), ("",)]


def test_csv(tmp_path):
    text = 'file_name,n,text\r\na.png,1,"a cat, sitting"\r\nb.png,2,a dog\r\n'
    (tmp_path / "metadata.csv").write_text(text, newline="")
    records, *_ = list_folder(tmp_path, "text")
    assert [(r.name, r.captions[0]) for r in records] == [
        ("a.png", "a cat, sitting"),
        ("b.png", "a dog"),
    ]


def test_txt_captions_in_nested_folders_one_a_line(tmp_path):
    picture(tmp_path / "b.JPG", format="JPEG")
    picture(tmp_path / "deep/er/a.png")
    picture(tmp_path / ".hidden/c.png")
    (tmp_path / "b.txt").write_text("a cat\n\n  a tabby cat \n")
    (tmp_path / "deep/er/a.txt").write_text("")
    (tmp_path / "notes.txt").write_text("buy milk")
    (tmp_path / ".hidden/c.txt").write_text("x")
    records, bad, unused = list_folder(tmp_path, "text")
    found = [(r.name, r.captions) for r in records]
    assert found == [("b.JPG", ("a cat", "a tabby cat")), ("deep/er/a.png", ("",))]
    assert bad == [] and unused == [Bad("notes.txt", "no picture of this name is beside it")]


def test_a_picture_without_txt_is_named(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    (tmp_path / "a.txt").write_text("x")
    assert list_folder(tmp_path, "text").bad == [Bad("b.png", "no caption: b.txt is not beside it")]


@pytest.mark.parametrize("value", [None, 3, [], ["a", 4], {"en": "a"}])
def test_a_row_without_a_caption_is_named(tmp_path, value):
    good, wrong = {"file_name": "a.png", "text": "x"}, {"file_name": "b.png", "text": value}
    write_rows(tmp_path, good, wrong)
    (bad,) = list_folder(tmp_path, "text").bad
    assert bad.name == "b.png" and "line 2" in bad.reason and "'text'" in bad.reason


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/a.png", "x/../../a.png", "..\\a.png", "C:\\a.png", ".."]
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, name):
    write_rows(tmp_path, {"file_name": "ok.png", "text": "x"}, {"file_name": name, "text": "y"})
    with pytest.raises(UserError, match="line 2: .* leads out of the folder") as error:
        list_folder(tmp_path, "text")
    assert name in str(error.value)


@given(st.lists(st.sampled_from(["..", ".", "a", "b"]), min_size=1, max_size=6))
def test_a_path_is_refused_only_if_it_ends_outside(tmp_path_factory, parts):
    folder = tmp_path_factory.getbasetemp() / "leaves"
    folder.mkdir(exist_ok=True)
    name = "/".join([*parts, "x.png"])
    write_rows(folder, {"file_name": name, "text": "t"})
    inside = (folder / name).resolve().is_relative_to(folder.resolve())
    if inside:
        assert list_folder(folder, "text").records[0].name == name
    else:
        with pytest.raises(UserError):
            list_folder(folder, "text")


def test_every_wrong_row_is_named_at_once(tmp_path):
    lines = ['{"file_name": "a.png"', "[1]", '{"file_name": "b.png", "text": "x"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"(?s)line 1: .*line 2: a JSON list") as error:
        list_folder(tmp_path, "text")
    assert "line 3" not in str(error.value)


def test_a_row_without_file_name_is_named(tmp_path):
    write_rows(tmp_path, {"file_name": "a.png", "text": "x"}, {"text": "y"})
    with pytest.raises(UserError, match="line 2: no file_name"):
        list_folder(tmp_path, "text")


def test_a_wrong_caption_column_lists_the_keys(tmp_path):
    write_rows(tmp_path, {"file_name": "a.png", "prompt": "x"})
    with pytest.raises(UserError, match="no 'text', only 'file_name', 'prompt'.*caption_column"):
        list_folder(tmp_path, "text")


def test_a_caption_that_is_not_utf8_leaves_its_picture_out(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("un chat")
    (tmp_path / "a.txt").write_bytes("fine\nun café".encode("latin-1"))
    records, bad, _ = list_folder(tmp_path, "text")
    assert [record.name for record in records] == ["b.png"]
    assert bad[0].name == "a.png" and "a.txt is not UTF-8 (byte 0xe9 in line 2)" in bad[0].reason


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_text_that_is_not_utf8_is_named(tmp_path, name):
    picture(tmp_path / "a.png")
    (tmp_path / name).write_bytes("fine\nun café".encode("latin-1"))
    with pytest.raises(UserError, match=rf"{name} is not UTF-8 \(byte 0xe9 in line 2\): save it"):
        list_folder(tmp_path, "text")


def test_two_metadata_files_are_refused(tmp_path):
    write_rows(tmp_path, {"file_name": "a.png", "text": "x"})
    (tmp_path / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(UserError, match="keep one"):
        list_folder(tmp_path, "text")


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_empty_metadata_is_refused(tmp_path, name):
    (tmp_path / name).write_text("file_name,text\n" if name.endswith("csv") else "\n")
    with pytest.raises(UserError, match="names no picture"):
        list_folder(tmp_path, "text")


def test_a_folder_of_nothing_or_without_captions_says_what_would_be_right(tmp_path):
    with pytest.raises(UserError, match="holds no pictures and no captions.*metadata.jsonl"):
        list_folder(tmp_path, "text")
    picture(tmp_path / "a.png")
    with pytest.raises(UserError, match="holds 1 pictures and no captions"):
        list_folder(tmp_path, "text")


STRAYS = ["0.TXT", "1.txt.txt", "2.cap", "3.caption", "4.png.txt"]


@pytest.fixture
def strays(tmp_path):
    """Five pictures beside files that look like captions and have other names."""
    for i, name in enumerate(STRAYS):
        picture(tmp_path / f"{i}.png")
        (tmp_path / name).write_text("a cat")
    return tmp_path


def test_what_looks_like_a_caption_is_named_with_the_name_that_would_be_read(strays):
    (strays / "5.txt").write_text("a cat")
    picture(strays / "5.png")
    (strays / "5.caption").write_text("another")
    (strays / "no picture.cap").write_text("x")
    _, bad, unused = list_folder(strays, "text")
    looks = "looks like a caption of {0}.png and is not read"
    why = [f"{looks}: name it {{0}}.txt".format(i) for i in range(5)]
    assert unused == [*map(Bad, STRAYS, why), Bad("5.caption", f"{looks}, as 5.txt is".format(5))]
    missing = "no caption: {0}.txt is not beside it, but {1} is: name it {0}.txt"
    assert [each.reason for each in bad] == [
        missing.format(i, name) for i, name in enumerate(STRAYS)
    ]


def test_where_no_caption_is_read_the_error_says_what_looks_like_one(strays):
    hint = "; 0.TXT: looks like a caption of 0.png and is not read: name it 0.txt, and 4 more"
    with pytest.raises(UserError, match=f"no captions for them.*{hint}"):
        list_folder(strays, "text")


def test_dots_in_the_names_of_pictures_are_theirs(tmp_path):
    for name in ("a.jpg.png", "a.b.png"):
        picture(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("x")
    records, bad, unused = list_folder(tmp_path, "text")
    assert len(records) == 2 and bad == unused == []


CONVERT = ".heic pictures are not read: convert it to PNG or JPEG"


def test_jpegs_by_other_names_are_read(tmp_path):
    for name in ("a.jfif", "b.JPE"):
        picture(tmp_path / name, format="JPEG")
        (tmp_path / name).with_suffix(".txt").write_text("x")
    records, bad, unused = list_folder(tmp_path, "text")
    assert [record.name for record in records] == ["a.jfif", "b.JPE"] and bad == unused == []


@pytest.mark.parametrize("column", ["text", None])
def test_pictures_that_are_not_read_are_named_with_what_helps(tmp_path, column):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "more").mkdir()
    for name in ("b.txt", "b.HEIC", "more/c.jxl", "a.heic", "movie.mp4"):
        (tmp_path / name).write_text("x")
    jxl = CONVERT.replace("heic", "jxl")
    assert list_folder(tmp_path, column).unused == [
        *(Bad(name, CONVERT) for name in ("a.heic", "b.HEIC")),
        Bad("more/c.jxl", jxl),
    ]


def test_one_that_a_metadata_file_names_is_tried(tmp_path):
    for name in ("a.heic", "b.heic"):
        (tmp_path / name).write_text("x")
    write_rows(tmp_path, {"file_name": "./a.heic", "text": "x"})
    records, _, unused = list_folder(tmp_path, "text")
    assert [record.name for record in records] == ["./a.heic"]
    assert unused == [Bad("b.heic", CONVERT)]


@pytest.mark.parametrize("column", ["text", None])
def test_where_there_are_no_others_the_error_says_so(tmp_path, column):
    for name in ("a.heic", "b.heic"):
        (tmp_path / name).write_text("x")
    hint = f"; a.heic: {CONVERT}, and 1 more likewise"
    with pytest.raises(UserError, match=f"holds no pictures.*{hint}"):
        list_folder(tmp_path, column)


def test_caption_tuple():
    assert caption_tuple("a") == ("a",)
    assert caption_tuple(["a", "b"]) == ("a", "b")
    assert caption_tuple(float("nan")) is None


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
    assert listing.bad == [] and [bad.name for bad in listing.unused] == ["10_dog_run/lone.caption"]
    assert [r.by_folder for r in listing.records] == [False, False, True]


def test_captions_that_are_not_read_are_named_in_folders_of_sd_scripts_too(kohya):
    (kohya / "2_sks cat" / "b.TXT").write_text("x")
    (kohya / "10_dog_run" / "c.txt").write_text("y")
    looks = "looks like a caption of {} and is not read"
    assert [bad for bad in list_folder(kohya, "text").unused if "lone" not in bad.name] == [
        Bad("10_dog_run/c.caption", f"{looks.format('c.png')}, as c.txt is"),
        Bad("2_sks cat/b.TXT", f"{looks.format('b.jpg')}: name it b.txt"),
    ]


def test_one_folder_without_a_number_makes_all_of_them_one_set_and_is_named(kohya):
    (kohya / "more").mkdir()
    Image.new("RGB", (9, 8)).save(kohya / "more" / "d.png")
    listing = list_folder(kohya, "text")
    assert [(r.name, r.repeats) for r in listing.records] == [("2_sks cat/a.png", 1)]
    assert len(listing.bad) == 3
    assert [bad.name for bad in listing.unused] == ["10_dog_run/c.caption", "more"]
    assert "one set without repeats" in listing.unused[1].reason
    (kohya / "2_sks cat" / "a.txt").unlink()
    with pytest.raises(UserError, match="no captions for them.*; more: its name has no number"):
        list_folder(kohya, "text")
