import io
import tarfile

import pytest

from flax_sd.data.sources.tar import list_tar
from tests.data.made_shards import png, samples, write_tar

SAMPLE = 512 + 1024 + 512 + 512  # bytes of a header, an image, a header and a caption


@pytest.fixture
def listed(tmp_path):
    """Lists an archive of these files, of which all but so many bytes are cut off."""

    def make(files, bytes_left=None, column="text"):
        content = write_tar(tmp_path / "s.tar", files).read_bytes()
        return list_tar("s.tar", content[:bytes_left], column)

    return make


def test_files_of_one_key_are_a_sample(listed):
    found = listed({"a/1.png": png(1), "b/1.txt": "other", "a/1.txt": "one\n\ntwo\n"})
    (record,) = found.records
    assert record.name == "a/1.png" and record.captions == ("one", "two")
    assert record.read() == png(1) and not found.bad
    assert [file.name for file in found.unused] == ["b/1.txt"]


def test_captions_of_json_come_before_those_of_txt(listed):
    files = {"1.json": {"text": ["a", "b"]}, "1.txt": "c", "1.JPG": png(1)}
    files |= {"2.json": {"url": "x"}, "2.txt": "c", "2.webp": png(2)}
    assert [each.captions for each in listed(files).records] == [("a", "b"), ("c",)]
    files = {"1.json": {"says": "d", "text": "a"}, "1.png": png(1)}
    assert listed(files, column="says").records[0].captions == ("d",)
    assert listed(files, column=None).records[0].captions == ("",)


@pytest.mark.parametrize(
    "caption, why",
    [
        ({}, "no caption: neither"),
        ({"1.txt": b"\xff"}, "1.txt is not UTF-8"),
        ({"1.txt": b"a\0"}, "1.txt holds NUL bytes"),
        ({"1.json": b'{"text": "\\ud83d"}'}, "half a surrogate pair"),
        ({"1.json": b"{"}, "1.json: Expecting"),
        ({"1.json": {"text": 3}}, "1.json has as 'text' 3, not a caption"),
    ],
)
def test_captions_that_cannot_be_used_are_named(listed, caption, why):
    found = listed({"1.png": png(1), **caption, **samples([2])})
    assert [each.name for each in found.records] == ["002.png"]
    assert found.bad[0].name == "1.png" and why in found.bad[0].reason


def test_masks_hidden_files_and_files_without_endings_are_no_images(listed):
    found = listed({**samples([1]), "1-masklabel.png": png(1), ".2.png": png(2), "README": "x"})
    assert [each.name for each in found.records] == ["001.png"] and not found.bad
    assert dict(found.unused) == {
        "1-masklabel.png": "a mask, which is read from folders alone",
        ".2.png": "hidden, as its name begins with a dot",
        "README": "its name has no ending, which says what it is",
    }


def test_images_that_are_not_read_are_named_with_what_helps(listed):
    found = listed({"1.heic": "x", "1.txt": "a", "2.jfif": png(2), "2.txt": "b", "3.txt": "c"})
    assert [each.name for each in found.records] == ["2.jfif"]
    assert found.unused == [
        ("1.heic", ".heic images are not read: convert it to PNG or JPEG"),
        ("3.txt", "no image has this key"),
    ]


@pytest.mark.parametrize("at", ["in a picture", "in a header", "between files", "in a caption"])
def test_what_is_whole_in_an_archive_that_was_cut_off_is_used(listed, at):
    left = {"between files": SAMPLE, "in a picture": SAMPLE + 600, "in a header": SAMPLE + 99}
    left["in a caption"] = SAMPLE + 512 + 1024 + 515
    found = listed(samples([1, 2]), left[at])
    assert [each.name for each in found.records] == ["001.png"]
    assert "s.tar" in [bad.name for bad in found.bad]
    assert ("002.png" in [bad.name for bad in found.bad]) == (
        at in ("in a picture", "in a caption")
    )


def test_damage_in_the_middle_is_not_taken_for_the_end(tmp_path):
    content = bytearray(write_tar(tmp_path / "s.tar", samples([1, 2])).read_bytes())
    content[SAMPLE : SAMPLE + 512] = b"x" * 512
    found = list_tar("s.tar", bytes(content), "text")
    assert [each.name for each in found.records] == ["001.png"]
    assert found.bad == [("s.tar", "the archive is damaged or ends early after 001.txt")]


def test_what_is_no_archive_is_named():
    assert "damaged" in list_tar("s.tar", b"nothing", "text").bad[0].reason


def test_second_files_of_a_key_are_named(listed):
    files = {"1.png": png(1), "1.jpg": png(2), "1.PNG": png(3), "1.txt": "a", "1.cls": "3"}
    files |= {"2.png": png(1), "2.txt": "a", "2.json": {"text": "b"}}
    files |= {"3.png": png(1), "3.txt": "a", "3.json": {"text": "b"}, "._3.png": "x"}
    found = listed(files)
    assert [each.name for each in found.records] == ["1.png", "2.png", "3.png"] and not found.bad
    assert dict(found.unused) == {
        "1.jpg": "a second image beside 1.png, which is used",
        "1.PNG": "its key and ending are those of 1.png, which is used",
        "1.cls": "no image, and no caption",
        "2.txt and 1 more": "not read, as the .json of its key has the caption",
    }
    assert [each.name for each in listed(files, column=None).unused] == ["1.PNG", "1.jpg", "1.cls"]


def special(tmp_path, *members):
    """An archive of a file a.png and of members by name, type and target."""
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, kind, target in (("d/a.png", tarfile.REGTYPE, b"x"), *members):
            member = tarfile.TarInfo(name)
            member.type = kind
            content = target if kind == tarfile.REGTYPE else b""
            member.size, member.linkname = len(content), "" if content else target
            archive.addfile(member, io.BytesIO(content))
    return list_tar("s.tar", (tmp_path / "s.tar").read_bytes(), None)


def test_links_in_an_archive_are_followed_or_named(tmp_path):
    """F5."""
    found = special(
        tmp_path,
        ("hard.png", tarfile.LNKTYPE, "d/a.png"),
        ("d/soft.png", tarfile.SYMTYPE, "a.png"),
        ("far.png", tarfile.SYMTYPE, "d/soft.png"),
        ("gone.png", tarfile.SYMTYPE, "nowhere.png"),
        ("round.png", tarfile.SYMTYPE, "round.png"),
        ("pipe.png", tarfile.FIFOTYPE, ""),
        ("d", tarfile.DIRTYPE, ""),
    )
    names = ["d/a.png", "hard.png", "d/soft.png", "far.png"]
    assert [each.name for each in found.records] == names and not found.bad
    assert all(each.read() == b"x" for each in found.records)
    assert sorted(each.name for each in found.unused) == ["gone.png", "pipe.png", "round.png"]


def test_of_a_file_that_is_there_twice_the_last_counts_and_the_first_is_named(tmp_path):
    found = special(tmp_path, ("d/a.png", tarfile.REGTYPE, b"y"))
    assert [each.read() for each in found.records] == [b"y"]
    assert found.unused == [("d/a.png", "there twice: the last counts, as when unpacked")]


def test_names_in_an_archive_are_shown_escaped(listed):
    """F37."""
    found = listed({"a\x1b.png": png(1), "a\x1b.txt": "x"})
    assert [each.name for each in found.records] == ["a\\x1b.png"]
