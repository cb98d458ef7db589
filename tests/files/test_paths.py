"""F11, F1: what a user writes as a path is that path, whatever is in its name."""

import pathlib
import pwd
import sys

import pytest

from flax_sd.errors import UserError
from flax_sd.files.paths import named, user_path, user_source


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("~", "/home/anna"),
        ("~/runs/cat", "/home/anna/runs/cat"),
        ("~root/x", f"{pwd.getpwuid(0).pw_dir}/x"),
        ("runs/~", "runs/~"),
        ("./~", "~"),
        ("./runs/cat/", "runs/cat"),
        ("$HOME/x", "$HOME/x"),
        ("50% off {0} v#2 a?b [*].", "50% off {0} v#2 a?b [*]."),
        ("file:///x", "file:/x"),
    ],
)
def test_a_path_is_a_path(written, path):
    assert user_path(written) == pathlib.Path(path)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "is empty: name a file or a folder"),
        ("  ", "is empty"),
        ("a\0b", "holds a NUL"),
        ("a\udcff", "is not UTF-8"),
        (
            "~nobody-of-that-name/x",
            r"~nobody-of-that-name has no home folder here: .* or \./~nobody",
        ),
    ],
)
def test_what_is_no_path_is_refused(written, message):
    for read in (user_path, user_source):
        with pytest.raises(ValueError, match=message):
            read(written)


def test_a_source_keeps_its_spelling_but_for_the_home():
    same = (
        "owner/set",
        "owner/set:config",
        "https://a/b-{000..123}.tar",
        "./a/",
        "a//b",
        "bundled:x",
    )
    assert [user_source(written) for written in same] == list(same)
    assert user_source("~/lora.safetensors:0.8") == "/home/anna/lora.safetensors:0.8"


def test_what_is_no_text_is_left_to_the_options_type():
    assert user_path(5) == 5 and user_source(None) is None


def test_functions_read_paths_as_options_do():
    """F11's sibling: in the Python interface a path is one too."""
    assert named("~/x") == named(pathlib.Path("~/x")) == pathlib.Path("/home/anna/x")
    for written, message in [("", "the path '' is empty"), ("a\0b", "NUL")]:
        with pytest.raises(UserError, match=message):
            named(written)


def test_letters_that_the_locale_lacks_are_told_with_what_helps(monkeypatch):
    """F16's sibling: a path in Chinese under LC_ALL=C, where Python is told not to help itself."""
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(ValueError, match="this locale cannot name: set PYTHONUTF8=1"):
        user_path("\udce7\udc8c\udcab")
