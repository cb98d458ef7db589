import io
import os
import pathlib

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flax_sd.data import open_images
from flax_sd.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    datasets.disable_progress_bars()


def png(colour):
    stream = io.BytesIO()
    Image.new("RGB", (9, 8), colour).save(stream, "PNG")
    return stream.getvalue()


def table(image="image", caption="text", captions=("a", "b", "c")):
    cells = [{"bytes": png((50 * i, 0, 0)), "path": None} for i in range(len(captions))]
    data = datasets.Dataset.from_dict({image: cells, caption: list(captions), "n": [1, 2, 3]})
    return data.cast_column(image, datasets.Image())


def reds(images):
    pixels = [images.load(i, seed=0, sample=0) for i in range(len(images))]
    return [round((float(p[0, 0, 0]) + 1) * 127.5) for p in pixels]


def test_save_to_disk(tmp_path, config):
    table().save_to_disk(tmp_path / "set")
    images = open_images(config(tmp_path / "set"))
    assert [images.captions(i) for i in range(3)] == [("a",), ("b",), ("c",)]
    assert images.names == ("row 0", "row 1", "row 2")
    assert reds(images) == [0, 50, 100]


def test_the_train_split_of_a_saved_dict(tmp_path, config):
    datasets.DatasetDict(train=table(), test=table()).save_to_disk(tmp_path / "ok")
    assert len(open_images(config(tmp_path / "ok"))) == 3
    datasets.DatasetDict(test=table()).save_to_disk(tmp_path / "none")
    with pytest.raises(UserError, match="no split 'train', only 'test'"):
        open_images(config(tmp_path / "none"))


def test_parquet_file_and_folder_with_other_columns(tmp_path, config):
    (tmp_path / "data").mkdir()
    made = table("photo", "says", [["a", "b"], ["c"], ["d"]])
    made.to_parquet(tmp_path / "data/train-0.parquet")
    columns = {"image_column": "photo", "caption_column": "says"}
    for path in (tmp_path, tmp_path / "data/train-0.parquet"):
        images = open_images(config(path, **columns))
        assert images.captions(0) == ("a", "b")
        assert reds(images) == [0, 50, 100]


def test_arrow_file(tmp_path, config):
    table().save_to_disk(tmp_path / "set")
    (arrow,) = (tmp_path / "set").glob("*.arrow")
    assert reds(open_images(config(arrow))) == [0, 50, 100]


def test_a_missing_column_lists_those_found(tmp_path, config):
    table("photo").save_to_disk(tmp_path)
    with pytest.raises(UserError, match="no column 'image', only 'photo', 'text', 'n': set data"):
        open_images(config(tmp_path))


def test_a_column_without_images(tmp_path, config):
    table().save_to_disk(tmp_path)
    with pytest.raises(UserError, match="column 'n' of .* holds .*int64.*, not images"):
        open_images(config(tmp_path, image_column="n"))


def test_rows_without_image_or_caption_are_named(tmp_path, config):
    cells = [{"bytes": png("red"), "path": None}, None, {"bytes": b"torn", "path": None}] + [
        {"bytes": png("blue"), "path": None}
    ]
    data = datasets.Dataset.from_dict({"image": cells, "text": ["a", "b", "c", None]})
    data.cast_column("image", datasets.Image()).save_to_disk(tmp_path)
    images = open_images(config(tmp_path))
    reasons = dict(images.bad)
    assert images.names == ("row 0",)
    assert reasons["row 1"] == "no image in this row"
    assert "not an image" in reasons["row 2"]
    assert "'text' holds None" in reasons["row 3"]


def test_a_column_of_paths(tmp_path, config):
    (tmp_path / "a.bin").write_bytes(png((50, 0, 0)))
    data = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.bin")], "text": ["x"]})
    data.save_to_disk(tmp_path / "set")
    assert reds(open_images(config(tmp_path / "set"))) == [50]


def test_a_damaged_file_is_named(tmp_path, config):
    (tmp_path / "x.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(UserError, match=r"x\.parquet cannot be loaded: "):
        open_images(config(tmp_path / "x.parquet"))


@pytest.mark.parametrize("cached", [False, True])
def test_an_id_that_cannot_be_reached(cached, monkeypatch, config):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if cached:  # another set of that owner, which is not enough
        (datasets.config.HF_DATASETS_CACHE / "nobody___another").mkdir()
    with pytest.raises(UserError, match="no such folder here, and as a datasets id .*loaded") as e:
        open_images(config("nobody/no-such-set"))
    assert "\n" not in str(e.value)


def test_an_id_may_name_a_configuration(monkeypatch, config):
    sets = {None: table(captions="abc"), "flat drawings": table(captions="xyz")}
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda self, repo, timeout: None)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda repo, name, split: {"some/set": sets}[repo][name]
    )
    for path, caption in (("some/set", "a"), ("some/set:flat drawings", "x")):
        assert open_images(config(path)).captions(0) == (caption,)


def test_other_splits_of_an_id_are_named(monkeypatch, config):
    """F2's sibling, as owner/set on the hub has them."""
    made = table(captions="abc")
    made.info.splits = dict.fromkeys(("train", "test"))
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda self, repo, timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda repo, name, split: made)
    ((name, why),) = open_images(config("some/set")).unused
    assert name == "split test" and "not trained on" in why and "--data.held_out" in why


def test_threads_read_rows_as_one_thread_does(tmp_path, config):
    data = datasets.concatenate_datasets([table()] * 20)
    data.save_to_disk(tmp_path)
    images = open_images(config(tmp_path, workers=4))
    np.testing.assert_array_equal(reds(images), [0, 50, 100] * 20)


def parquet(path, cells, captions):
    path.parent.mkdir(parents=True, exist_ok=True)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(cells, struct), "text": captions}
    pq.write_table(pa.table(columns), path)
    return path


def cell(content=None, path=None):
    return {"bytes": content, "path": path}


def test_cells_without_an_image_are_left_out_by_row(tmp_path, config):
    """F19, F36."""
    os.mkfifo(tmp_path / "pipe")
    paths = ["/nowhere/a.png", "https://x.org/a.png", "", str(tmp_path / "pipe"), "a\0b"]
    cells = [cell(png("red")), cell(), None, cell(b""), *(cell(path=path) for path in paths)]
    images = open_images(config(parquet(tmp_path / "a.parquet", cells, ["x"] * 9)))
    assert images.names == ("row 0",)
    why = dict(images.bad)
    assert [*sorted(why)] == [f"row {i}" for i in range(1, 9)]
    assert why["row 1"] == why["row 2"] == "no image in this row"
    assert why["row 3"] == "the file is empty" and "no such file" in why["row 4"]
    assert "a URL" in why["row 5"] and "no file's" in why["row 7"] and "NUL" in why["row 8"]


def test_text_that_is_no_utf8_costs_its_row(tmp_path, config):
    """F14."""
    broken = pa.array([b"fine", b"\xed\xa0\xbd"]).view(pa.string())
    path = parquet(tmp_path / "a.parquet", [cell(png("red"))] * 2, broken)
    images = open_images(config(path))
    assert images.names == ("row 0",)
    assert "holds b'\\xed\\xa0\\xbd', not a caption" in images.bad[0].reason


def test_a_column_of_urls_is_named_as_such(tmp_path, config):
    """F36."""
    data = datasets.Dataset.from_dict({"image": ["http://x/1.png"] * 3, "text": ["x"] * 3})
    data.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="column 'image' of .* holds URLs, not ima.*img2dataset"):
        open_images(config(tmp_path))


def test_the_train_split_of_files_is_trained_on_and_others_are_offered(tmp_path, config):
    """F2."""
    for name in ("train-0-of-2", "train-1-of-2", "test-0-of-1", "validation-0-of-2", "extra"):
        parquet(tmp_path / f"data/{name}.parquet", [cell(png("red"))], [name])
    parquet(tmp_path / "data/validation-1-of-2.parquet", [cell(png("red"))], ["x"])
    (tmp_path / "README.md").write_text("x")
    image = Image.new("RGB", (4, 4))
    image.save(tmp_path / "preview.png")
    images = open_images(config(tmp_path))
    assert [images.captions(i)[0] for i in range(2)] == ["train-0-of-2", "train-1-of-2"]
    why = dict(images.unused)
    test = tmp_path / "data/test-0-of-1.parquet"
    assert f"--data.held_out {test} evaluates" in why["data/test-0-of-1.parquet"]
    assert "a folder of its own" in why["data/validation-0-of-2.parquet and 1 more"]
    assert "move it into train" in why["data/extra.parquet"]
    assert "beside a table" in why["preview.png"] and len(images) == 2 and len(why) == 4
    assert open_images(config(test)).captions(0) == ("test-0-of-1",)


def test_folders_of_splits_and_tables_of_one_other_split(tmp_path, config):
    """F2."""
    for name in ("train/0", "train/1", "test/0", "test/1"):
        parquet(tmp_path / f"{name}.parquet", [cell(png("red"))], [name])
    images = open_images(config(tmp_path))
    assert len(images) == 2 and f"--data.held_out {tmp_path}/test " in images.unused[0].reason
    assert len(open_images(config(tmp_path / "test"))) == 2


def test_other_splits_of_a_saved_dict_are_offered(tmp_path, config):
    """F2."""
    datasets.DatasetDict(train=table(), test=table(captions="xyz")).save_to_disk(tmp_path / "set")
    images = open_images(config(tmp_path / "set"))
    (test,) = images.unused
    assert test.name == "test" and f"--data.held_out {tmp_path}/set/test " in test.reason
    assert open_images(config(tmp_path / "set/test")).captions(0) == ("x",)


def test_two_kinds_of_tables_are_refused_and_brackets_are_a_path(tmp_path, config):
    folder = tmp_path / "my [set]*"
    parquet(folder / "A.PARQUET", [cell(png("red"))], ["x"])
    assert len(open_images(config(folder))) == 1
    table().save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.rename(folder / "b.arrow")
    with pytest.raises(UserError, match=r"holds both \.arrow and \.parquet files: keep one"):
        open_images(config(folder))


def test_a_folder_that_cannot_be_read_is_named_itself(tmp_path, config, monkeypatch):
    """F25's sibling: not by a file that is looked for in it."""
    look = pathlib.Path.is_file

    def refuse(path):
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(pathlib.Path, "is_file", refuse)
    with pytest.raises(UserError, match="holds no images"):  # as it is looked into after that
        open_images(config(tmp_path))


def test_of_several_tables_the_one_that_does_not_fit_is_named(tmp_path, config):
    """F19's sibling: `datasets` says "Couldn't cast", and not of which file."""
    for name, column in (("a", "text"), ("b", "caption")):
        made = pa.table({"image": [cell(png("red"))], column: ["x"]})
        pa.parquet.write_table(made, tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match="b.parquet has the columns 'image', 'caption', and a.par"):
        open_images(config(tmp_path))
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be loaded: b.parquet: "):
        open_images(config(tmp_path))


def test_damaged_arrow_files_are_refused_before_they_lead_out_of_the_memory(tmp_path, config):
    captions = pa.array(["one", "two"])
    offsets = captions.buffers()[1].to_pybytes()
    wrong = pa.py_buffer(offsets[:4] + (2**30).to_bytes(4, "little") + offsets[8:12])
    broken = pa.Array.from_buffers(pa.string(), 2, [None, wrong, captions.buffers()[2]])
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    made = pa.table({"image": pa.array([cell(png("red"))] * 2, struct), "text": broken})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), made.schema) as writer:
        writer.write_table(made)
    with pytest.raises(UserError, match="cannot be loaded: .*offset"):
        open_images(config(tmp_path))


def test_files_without_rows_and_links_to_nothing_cost_no_others(tmp_path, config):
    """F5."""
    parquet(tmp_path / "a.parquet", [cell(png("red"))], ["x"])
    empty = parquet(tmp_path / "b.parquet", [], pa.array([], pa.string()))
    (tmp_path / "c.parquet").symlink_to("blobs/gone")
    images = open_images(config(tmp_path))
    assert len(images) == 1 and images.unused == [("b.parquet", "has no rows")]
    assert images.bad == [("c.parquet", "a link to blobs/gone, which is not there")]
    (tmp_path / "a.parquet").unlink()
    for path in (tmp_path, empty):
        with pytest.raises(UserError, match="has no rows"):
            open_images(config(path))
