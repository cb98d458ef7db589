"""Splits by name, as `datasets` has them (F2)."""

from pathlib import Path, PurePath

import pytest

from flax_sd.data.sources.splits import (
    alone,
    are_divided,
    not_trained_on,
    split_of_file,
    split_of_folder,
)


@pytest.mark.parametrize(
    "path, split",
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("test-00000-of-00001.parquet", "test"),
        ("val.parquet", "validation"),
        ("my_dev 1.parquet", "validation"),
        ("Eval/0.parquet", "test"),
        ("test/train.parquet", "test"),
        ("trains.parquet", None),
        ("latest.parquet", None),
    ],
)
def test_of_files_a_word_of_the_path_says_it(path, split):
    assert split_of_file(PurePath(path)) == split


def test_of_folders_of_images_the_whole_name_says_it():
    assert split_of_folder("Training") == "train" and split_of_folder("val") == "validation"
    assert split_of_folder("train station") is None and split_of_folder("10_test") is None


def test_a_set_is_divided_where_there_is_a_train_split_beside_others():
    assert are_divided(["train", "test", None])
    for splits in (["train", None], ["test", "validation"], [None], []):
        assert not are_divided(splits)


def test_the_path_of_a_split_names_nothing_else():
    files = {Path("s/train/0"): "train", Path("s/test/0"): "test", Path("s/test/1"): "test"}
    assert alone(files, Path("s/test/0")) == Path("s/test")
    assert alone(files, Path("s/train/0")) == Path("s/train/0")
    mixed = {Path("s/train-0"): "train", Path("s/test-0"): "test", Path("s/test-1"): "test"}
    assert alone(mixed, Path("s/test-0")) is None


def test_the_command_is_one_that_can_be_typed():
    assert "--data.held_out 'my set/test' evaluates" in not_trained_on("test", "my set/test")
