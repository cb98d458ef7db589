import json

import numpy as np
import pytest

from flax_sd.errors import MAX_PROBLEMS_IN_MESSAGE, UserError
from flax_sd.generation.gallery import Gallery
from tests.generation.test_png import PIXELS, RECORD


def record(number, **changes):
    return RECORD | {"file_name": f"{number:05d}_seed42.png", **changes}


def records(*numbers, **changes):
    return {record(n)["file_name"]: record(n, **changes) for n in numbers}


def fill(folder, wanted):
    gallery = Gallery(folder, wanted)
    gallery.make()
    for one in wanted.values():
        gallery.add(PIXELS, one)
    gallery.write_metadata()
    return gallery


def lines(folder):
    text = (folder / "metadata.jsonl").read_text("utf-8")
    return [json.loads(line)["file_name"] for line in text.splitlines()]


def test_what_is_there_is_done(tmp_path):
    wanted = records(0, 1, 2)
    fill(tmp_path, wanted)
    (tmp_path / "00001_seed42.png").unlink()
    assert list(Gallery(tmp_path, wanted).done) == ["00000_seed42.png", "00002_seed42.png"]


def test_metadata_is_a_data_set(tmp_path):
    fill(tmp_path, records(1, 0))
    text = (tmp_path / "metadata.jsonl").read_text("utf-8")
    assert [json.loads(line) for line in text.splitlines()] == [record(0), record(1)]
    assert "猫" in text


def test_images_with_other_settings_are_refused_by_name(tmp_path):
    fill(tmp_path, records(*range(MAX_PROBLEMS_IN_MESSAGE + 2)))
    with pytest.raises(UserError) as caught:
        Gallery(tmp_path, records(*range(MAX_PROBLEMS_IN_MESSAGE + 3), steps=30, text="a dog"))
    message = str(caught.value)
    assert "00004_seed42.png: text is 'a cat, 猫', not 'a dog', steps is 20, not 30" in message
    assert f"{MAX_PROBLEMS_IN_MESSAGE:05}" not in message and message.endswith("and 2 more")


def test_foreign_images_are_refused(tmp_path):
    (tmp_path / "00000_seed42.png").write_bytes(b"somebody's")
    with pytest.raises(UserError, match="00000_seed42.png: holds no settings of flax_sd"):
        Gallery(tmp_path, records(0))


def test_lines_of_other_runs_stay(tmp_path):
    fill(tmp_path, records(0, 3))
    with (tmp_path / "metadata.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"file_name": "gone/elsewhere.png", "mine": 1}\n')
    (tmp_path / "00003_seed42.png").unlink()
    fill(tmp_path, records(1))
    assert lines(tmp_path) == ["00000_seed42.png", "00001_seed42.png", "gone/elsewhere.png"]


@pytest.mark.parametrize("text", ["not json\n", '{"text": "no name"}\n', "[1]\n"])
def test_a_list_of_something_else_is_not_replaced(tmp_path, text):
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(UserError, match="metadata.jsonl is not a list of images"):
        Gallery(tmp_path, records(0))
    assert (tmp_path / "metadata.jsonl").read_text() == text


def test_out_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="out is a file: name a folder"):
        Gallery(tmp_path / "out", {})
    with pytest.raises(UserError, match="cannot be made: Not a directory"):
        Gallery(tmp_path / "out" / "deeper", {}).make()


def test_nothing_is_written_before_there_is_a_image(tmp_path):
    gallery = Gallery(tmp_path / "out", records(0))
    gallery.make()
    gallery.write_metadata()
    assert not list((tmp_path / "out").iterdir())
    assert not np.any([gallery.done])
