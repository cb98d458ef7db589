import io

import datasets
import numpy as np
import pytest
from PIL import Image

from flax_sd.data import open_pictures
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


def reds(pictures):
    pixels = [pictures.load(i, seed=0, sample=0) for i in range(len(pictures))]
    return [round((float(p[0, 0, 0]) + 1) * 127.5) for p in pixels]


def test_save_to_disk(tmp_path, config):
    table().save_to_disk(tmp_path / "set")
    pictures = open_pictures(config(tmp_path / "set"))
    assert [pictures.captions(i) for i in range(3)] == [("a",), ("b",), ("c",)]
    assert pictures.names == ("row 0", "row 1", "row 2")
    assert reds(pictures) == [0, 50, 100]


def test_the_train_split_of_a_saved_dict(tmp_path, config):
    datasets.DatasetDict(train=table(), test=table()).save_to_disk(tmp_path / "ok")
    assert len(open_pictures(config(tmp_path / "ok"))) == 3
    datasets.DatasetDict(test=table()).save_to_disk(tmp_path / "none")
    with pytest.raises(UserError, match="no split 'train', only 'test'"):
        open_pictures(config(tmp_path / "none"))


def test_parquet_file_and_folder_with_other_columns(tmp_path, config):
    (tmp_path / "data").mkdir()
    made = table("photo", "says", [["a", "b"], ["c"], ["d"]])
    made.to_parquet(tmp_path / "data/train-0.parquet")
    columns = {"image_column": "photo", "caption_column": "says"}
    for path in (tmp_path, tmp_path / "data/train-0.parquet"):
        pictures = open_pictures(config(path, **columns))
        assert pictures.captions(0) == ("a", "b")
        assert reds(pictures) == [0, 50, 100]


def test_arrow_file(tmp_path, config):
    table().save_to_disk(tmp_path / "set")
    (arrow,) = (tmp_path / "set").glob("*.arrow")
    assert reds(open_pictures(config(arrow))) == [0, 50, 100]


def test_a_missing_column_lists_those_found(tmp_path, config):
    table("photo").save_to_disk(tmp_path)
    with pytest.raises(UserError, match="no column 'image', only 'photo', 'text', 'n': set data"):
        open_pictures(config(tmp_path))


def test_a_column_without_pictures(tmp_path, config):
    table().save_to_disk(tmp_path)
    with pytest.raises(UserError, match="column 'n' of .* holds .*int64.*, not pictures"):
        open_pictures(config(tmp_path, image_column="n"))


def test_rows_without_picture_or_caption_are_named(tmp_path, config):
    cells = [{"bytes": png("red"), "path": None}, None, {"bytes": b"torn", "path": None}] + [
        {"bytes": png("blue"), "path": None}
    ]
    data = datasets.Dataset.from_dict({"image": cells, "text": ["a", "b", "c", None]})
    data.cast_column("image", datasets.Image()).save_to_disk(tmp_path)
    pictures = open_pictures(config(tmp_path))
    reasons = dict(pictures.bad)
    assert pictures.names == ("row 0",)
    assert reasons["row 1"] == "no picture in this row"
    assert "not a picture" in reasons["row 2"]
    assert "'text' holds None" in reasons["row 3"]


def test_a_column_of_paths(tmp_path, config):
    (tmp_path / "a.bin").write_bytes(png((50, 0, 0)))
    data = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.bin")], "text": ["x"]})
    data.save_to_disk(tmp_path / "set")
    assert reds(open_pictures(config(tmp_path / "set"))) == [50]


def test_a_damaged_file_is_named(tmp_path, config):
    (tmp_path / "x.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(UserError, match=r"x\.parquet cannot be loaded: "):
        open_pictures(config(tmp_path / "x.parquet"))


@pytest.mark.parametrize("cached", [False, True])
def test_an_id_that_cannot_be_reached(cached, monkeypatch, config):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if cached:  # another set of that owner, which is not enough
        (datasets.config.HF_DATASETS_CACHE / "nobody___another").mkdir()
    with pytest.raises(UserError, match="no such folder here, and as a datasets id .*loaded") as e:
        open_pictures(config("nobody/no-such-set"))
    assert "\n" not in str(e.value)


def test_an_id_may_name_a_configuration(monkeypatch, config):
    sets = {None: table(captions="abc"), "flat drawings": table(captions="xyz")}
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda self, repo, timeout: None)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda repo, name, split: {"some/set": sets}[repo][name]
    )
    for path, caption in (("some/set", "a"), ("some/set:flat drawings", "x")):
        assert open_pictures(config(path)).captions(0) == (caption,)


def test_threads_read_rows_as_one_thread_does(tmp_path, config):
    data = datasets.concatenate_datasets([table()] * 20)
    data.save_to_disk(tmp_path)
    pictures = open_pictures(config(tmp_path, workers=4))
    np.testing.assert_array_equal(reds(pictures), [0, 50, 100] * 20)
