"""What metadata files say of images, and what is wrong with them."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_sd.data.sources.folder import list_folder
from flax_sd.data.sources.records import Bad
from flax_sd.errors import UserError
from tests.data.made_folders import CONVERT, image


def write_rows(folder, *rows):
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")


def test_jsonl_ignores_other_files_and_further_keys(tmp_path):
    image(tmp_path / "sub/a.png")
    image(tmp_path / "not named.png")
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


@pytest.mark.parametrize("value", [None, 3, [], ["a", 4], {"en": "a"}])
def test_a_row_without_a_caption_is_named(tmp_path, value):
    good, wrong = {"file_name": "a.png", "text": "x"}, {"file_name": "b.png", "text": value}
    write_rows(tmp_path, good, wrong)
    (bad,) = list_folder(tmp_path, "text").bad
    assert bad.name == "b.png" and "line 2" in bad.reason and "'text'" in bad.reason


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/a.png", "x/../../a.png", "..\\a.png", "C:\\a.png", ".."]
)
def test_a_path_that_leaves_the_folder_is_left_out(tmp_path, name):
    """F17's sibling: a bad name costs one image."""
    good, wrong = {"file_name": "ok.png", "text": "x"}, {"file_name": name, "text": "y"}
    write_rows(tmp_path, good, wrong)
    listing = list_folder(tmp_path, "text")
    (bad,) = listing.bad
    assert [record.name for record in listing.records] == ["ok.png"]
    assert bad == ("line 2 of metadata.jsonl", f"{name} leads out of the folder")
    write_rows(tmp_path, wrong)
    with pytest.raises(UserError, match="names no image: .* line 1: .* leads out of the folder"):
        list_folder(tmp_path, "text")


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
    """F14's siblings: a row costs one image, and the whole set only where no other is there."""
    lines = ['{"file_name": "a.png"', "[1]", '{"text": "x"}']
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(lines) + '\n{"file_name": "b.png", "text": ""}'
    )
    listing = list_folder(tmp_path, "text")
    assert [record.name for record in listing.records] == ["b.png"]
    reasons = {bad.name.removesuffix(" of metadata.jsonl"): bad.reason for bad in listing.bad}
    assert reasons["line 1"].startswith("Expecting ',' delimiter")
    assert reasons["line 2"] == "a JSON list, not an object"
    assert reasons["line 3"] == "no file_name"
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines[:2]))
    with pytest.raises(UserError, match=r"(?s)line 1: .*line 2: a JSON list"):
        list_folder(tmp_path, "text")


def test_what_spreadsheets_make_of_csv(tmp_path):
    """F3's siblings: spaces in the head, empty columns and rows; other signs than commas."""
    write_csv(tmp_path, "file_name , text,,\na.png,x,,\n,,,\nb.png,y\n")
    assert rows(tmp_path) == ({"a.png": ("x",), "b.png": ("y",)}, {})
    for sign, what in ((";", "semicolons"), ("\t", "tabs")):
        write_csv(tmp_path, f"file_name{sign}text\na.png{sign}x\n")
        with pytest.raises(UserError, match=f"has {what} between its columns: save it with commas"):
            list_folder(tmp_path, "text")


def test_a_wrong_caption_column_lists_the_keys(tmp_path):
    write_rows(tmp_path, {"file_name": "a.png", "prompt": "x"})
    with pytest.raises(UserError, match="no 'text', only 'file_name', 'prompt'.*caption_column"):
        list_folder(tmp_path, "text")


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_text_that_is_not_utf8_is_named(tmp_path, name):
    image(tmp_path / "a.png")
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
    with pytest.raises(UserError, match="names no image"):
        list_folder(tmp_path, "text")


def test_one_that_a_metadata_file_names_is_tried(tmp_path):
    for name in ("a.heic", "b.heic"):
        (tmp_path / name).write_text("x")
    write_rows(tmp_path, {"file_name": "./a.heic", "text": "x"})
    records, _, unused = list_folder(tmp_path, "text")
    assert [record.name for record in records] == ["./a.heic"]
    assert unused == [Bad("b.heic", CONVERT)]


def rows(folder):
    """Names, captions of what is used, and reasons of what is left out."""
    found = list_folder(folder, "text")
    return {each.name: each.captions for each in found.records}, dict(found.bad)


def write_csv(folder, text):
    (folder / "metadata.csv").write_text(text, "utf-8", newline="")


def test_commas_of_the_last_column_are_those_of_the_caption(tmp_path):
    """F3."""
    write_csv(tmp_path, "file_name,text\na.png,a cat, sitting on a sofa, indoors\nb.png,a dog,,\n")
    good, bad = rows(tmp_path)
    assert good == {"a.png": ("a cat, sitting on a sofa, indoors",), "b.png": ("a dog",)}
    assert bad == {}


def test_a_row_of_more_fields_than_columns_is_left_out_where_it_cannot_be_told(tmp_path):
    """F3."""
    write_csv(tmp_path, "text,file_name\na cat,a.png\na cat, indoors,b.png\n")
    good, bad = rows(tmp_path)
    assert list(good) == ["a.png"]
    (why,) = bad.values()
    assert "line 3 of metadata.csv: 3 fields where the first line names 2" in why


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x0b", "\x0c", "\x85", "\x1c", "\r"])
def test_only_line_feeds_end_a_line_of_csv(tmp_path, sign):
    """F4."""
    write_csv(tmp_path, f"file_name,text\na.png,one{sign}two\nb.png,three\n")
    good, bad = rows(tmp_path)
    assert list(good) == ["a.png", "b.png"] and bad == {}
    assert good["a.png"] == (f"one{sign}two".replace("\r", " "),)


def test_a_quote_that_is_never_closed_takes_no_other_row(tmp_path):
    text = 'file_name,text\na.png,"a cat\nb.png,"a ""black"" dog\non two lines"\nc.png,"sks" cat\n'
    write_csv(tmp_path, text)
    good, bad = rows(tmp_path)
    assert good["a.png"] == ("a cat",) and good["c.png"] == ("sks cat",) and bad == {}
    assert good["b.png"] == ('a "black" dog\non two lines',)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    write_csv(tmp_path, "file_name,text,text\na.png,one,two\n")
    with pytest.raises(UserError, match="two columns are called 'text'"):
        list_folder(tmp_path, "text")
    (tmp_path / "metadata.csv").unlink()
    line = '{"file_name": "a.png", "text": "x", "text": "y"}'
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(UserError, match="line 1: the key 'text' occurs twice"):
        list_folder(tmp_path, "text")


def test_half_a_surrogate_pair_leaves_its_image_out(tmp_path):
    """F14: in a caption, and in a name."""
    good = {"file_name": "a.png", "text": "x"}
    write_rows(
        tmp_path,
        good,
        {"file_name": "b.png", "text": "a \ud83d cat"},
        {"file_name": "\ud83d.png", "text": "x"},
        {"file_name": "nul\0.png", "text": "x"},
    )
    used, bad = rows(tmp_path)
    assert list(used) == ["a.png"]
    assert "half a surrogate pair" in bad["b.png"] and "half a surrogate" in bad["\\ud83d.png"]
    assert "NUL" in bad["nul\\x00.png"]


def test_backslashes_of_windows_are_slashes_where_the_file_is(tmp_path):
    """F28."""
    image(tmp_path / "cats/a.png")
    image(tmp_path / "odd\\b.png")
    names = ["cats\\a.png", "odd\\b.png"]
    write_rows(tmp_path, *({"file_name": name, "text": "x"} for name in names))
    found = list_folder(tmp_path, "text")
    assert [record.name for record in found.records] == names and found.unused == found.bad == []
    assert all(record.read() for record in found.records)


@pytest.mark.parametrize("indent", [None, 1])
def test_one_array_of_json_is_refused_in_a_sentence(tmp_path, indent):
    """F31."""
    table = [{"file_name": f"{i}.png", "text": "x"} for i in range(200)]
    (tmp_path / "metadata.jsonl").write_text(json.dumps(table, indent=indent))
    with pytest.raises(UserError, match="is one JSON array: write one object a line$"):
        list_folder(tmp_path, "text")
    objects = "\n".join(json.dumps(row, indent=1) for row in table)
    (tmp_path / "metadata.jsonl").write_text(objects)
    with pytest.raises(UserError, match="over several lines each: write one object a line$"):
        list_folder(tmp_path, "text")


def test_a_long_list_of_problems_is_cut(tmp_path):
    """F31."""
    (tmp_path / "metadata.jsonl").write_text("x\n" * 500)
    with pytest.raises(UserError, match=r"line 20: .*\n  and 480 more$"):
        list_folder(tmp_path, "text")


def test_metadata_of_a_folder_below_is_used(tmp_path):
    """F31: beside others of its kind, and images that none speaks for."""
    for name in ("one", "two"):
        image(tmp_path / name / "a.png")
        write_rows(tmp_path / name, {"file_name": "a.png", "text": name})
    image(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("beside")
    image(tmp_path / "c.png")
    used, bad = rows(tmp_path)
    assert used == {"one/a.png": ("one",), "two/a.png": ("two",), "b.png": ("beside",)}
    assert "no caption" in bad["c.png"]
    write_rows(tmp_path, {"file_name": "one/a.png", "text": "all"})
    found = list_folder(tmp_path, "text")
    assert [record.name for record in found.records] == ["one/a.png"]
    assert "one/metadata.jsonl and 1 more" in [each.name for each in found.unused]
    assert ("b.txt", "not read, as metadata.jsonl has the captions") in found.unused


def test_urls_are_named_with_what_to_do(tmp_path):
    """F36."""
    write_rows(
        tmp_path,
        {"file_name": "https://x.org/a.png", "text": "x"},
        {"file_name": "b.png", "text": "x"},
    )
    _, bad = rows(tmp_path)
    assert "a URL: download the images first" in bad["https://x.org/a.png"]
    write_rows(tmp_path, {"file_name": "https://x.org/a.png", "text": "x"})
    with pytest.raises(UserError, match="has URLs for file_name: download .*img2dataset"):
        list_folder(tmp_path, "text")


def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    rows_ = [{"file_name": name, "text": "x"} for name in ("a.png", "b.png", ".")]
    write_rows(tmp_path, *rows_)
    used, bad = rows(tmp_path)
    assert not used and "neither a file" in bad["a.png"] and "a folder" in bad["b.png"]


def test_utf16_with_its_mark_is_read(tmp_path):
    line = json.dumps({"file_name": "a.png", "text": "é"}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text(line, "utf-16")
    assert rows(tmp_path)[0] == {"a.png": ("é",)}
