"""The times of earlier work, which are a help and never in the way."""

import json

import pytest

from flax_sd.system import durations
from flax_sd.system.durations import keep_seconds, last_seconds


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "flax_sd" / durations.FILE


def test_the_last_time_that_was_worth_a_word_is_kept(file):
    assert last_seconds("a") is None
    for name, seconds in [("a", 71.44), ("b", 8.0), ("a", 2.0)]:
        keep_seconds(name, seconds)
    assert last_seconds("a") == 71.4 and last_seconds("b") == 8


def test_only_the_latest_names_are_kept(file, monkeypatch):
    monkeypatch.setattr(durations, "MAX_NAMES", 2)
    for name in "abac":
        keep_seconds(name, 9.0)
    assert json.loads(file.read_text()) == {"a": 9.0, "c": 9.0}


@pytest.mark.parametrize("content", ["", "[1]", '{"a": "x"}', "\udcff"])
def test_a_file_that_is_not_ours_is_no_time(file, content):
    file.parent.mkdir(parents=True)
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert last_seconds("a") is None
    keep_seconds("a", 9.0)
    assert last_seconds("a") == 9.0


def test_a_folder_that_cannot_be_made_is_nothing_to_stop_for(file):
    file.parent.parent.mkdir(parents=True, exist_ok=True)
    file.mkdir(parents=True)
    keep_seconds("a", 9.0)
    assert last_seconds("a") is None
