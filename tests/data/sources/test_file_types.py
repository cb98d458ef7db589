import pathlib

from flax_sd.data.sources.file_types import (
    CAPTIONS,
    PICTURES,
    UNREAD_PICTURES,
    is_image,
    why_unread,
)

DOCS = pathlib.Path(__file__).parents[3] / "docs" / "data.md"


def test_no_ending_is_of_two_kinds():
    kinds = (PICTURES, UNREAD_PICTURES, CAPTIONS)
    assert len(frozenset.union(*kinds)) == sum(map(len, kinds))


def test_capitals_and_masks():
    assert is_image(pathlib.Path("a.JFIF")) and not is_image(pathlib.Path("a-masklabel.png"))
    assert why_unread(pathlib.Path("a.HEIC")) and why_unread(pathlib.Path("a.png")) is None


def test_the_page_on_data_names_all_endings_that_are_read():
    (line,) = (line for line in DOCS.read_text("utf-8").splitlines() if "`.jfif`" in line)
    assert {part for part in line.split("`") if part.startswith(".")} - {".tar"} == PICTURES
