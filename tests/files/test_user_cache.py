"""F20, F25: no home, or one that cannot be written, costs a cache and no run."""

import errno
import os
import pathlib

import pytest

from flax_sd.files import user_cache


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No variable says where caches are, and temporary files go to a folder of the test."""
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_DATASETS_CACHE"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever the test sets
        monkeypatch.delenv(name)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    user_cache._among_temporary_ones.cache_clear()
    yield
    user_cache._among_temporary_ones.cache_clear()


@pytest.fixture
def temporary(tmp_path):
    return tmp_path / "tmp" / f"flax_sd-{os.getuid()}"


def test_usually_it_is_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache.user_cache() == tmp_path / ".cache" / "flax_sd"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/x")
    assert user_cache.user_cache() == tmp_path / "x" / "flax_sd"
    user_cache.make_hub_cache()
    assert "HF_HOME" not in os.environ


def no_home(monkeypatch):
    def raising(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "expanduser", raising)


def unwritable(monkeypatch):
    def refuse(dir):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_home, "no home folder"),
        (lambda patch: patch.setenv("HOME", "/dev/null"), "/dev/null is a file"),
        (unwritable, "cannot be written: Permission denied"),
    ],
)
def test_without_one_it_is_temporary_and_said_once(monkeypatch, temporary, caplog, make, said):
    make(monkeypatch)
    assert user_cache.user_cache() == user_cache.user_cache() == temporary
    assert temporary.stat().st_mode & 0o777 == 0o700
    assert len(caplog.records) == 1 and said in caplog.text and str(temporary) in caplog.text


def test_a_folder_of_somebody_elses_is_not_used(monkeypatch, temporary):
    monkeypatch.setenv("HOME", "/dev/null")
    temporary.mkdir()
    temporary.chmod(0o777)
    assert user_cache.user_cache().parent == temporary.parent
    assert user_cache.user_cache() != temporary


def test_the_hubs_libraries_get_a_cache_too(monkeypatch, temporary, caplog, tmp_path):
    monkeypatch.setenv("HOME", "/dev/null")
    user_cache.make_hub_cache()
    assert os.environ["HF_HOME"] == str(temporary / "huggingface")
    user_cache._among_temporary_ones.cache_clear()
    monkeypatch.setenv("HF_HOME", "/dev/null/hub")
    monkeypatch.delenv("HF_DATASETS_CACHE")
    user_cache.make_hub_cache()
    assert os.environ["HF_HOME"] == str(temporary / "huggingface")
    assert "HF_HOME: /dev/null/hub/datasets cannot be made" in caplog.text
    # Downloads that are there are still read from where they are.
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    unwritable(monkeypatch)
    monkeypatch.delenv("HF_DATASETS_CACHE")
    user_cache.make_hub_cache()
    assert os.environ["HF_HOME"] == str(tmp_path)
    assert os.environ["HF_DATASETS_CACHE"] == str(temporary / "huggingface" / "datasets")
