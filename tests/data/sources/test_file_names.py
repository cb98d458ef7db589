"""Names of files as users write them."""

import pytest

from flax_sd.data.sources.file_names import find, is_there, leaves, why_no_name


@pytest.mark.parametrize("name", ["../a", "a/../../b", "..\\a", "/a", "C:\\a", "\\\\nas\\a", ".."])
def test_names_that_lead_out(name):
    assert leaves(name) and not leaves(f"a/{name.replace('/', '')[-1]}")


def test_backslashes(tmp_path):
    """F28: they are slashes where the file is, and signs of a name where it has them."""
    (tmp_path / "a").mkdir()
    for path in ("a/b", "a\\c"):
        (tmp_path / path).write_text("x")
    assert find(tmp_path, "a\\b") == tmp_path / "a" / "b" == find(tmp_path, "./a/../a/b")
    assert find(tmp_path, "a\\c") == tmp_path / "a\\c"
    assert find(tmp_path, "a\\d") == tmp_path / "a\\d"


def test_names_that_no_file_has(tmp_path):
    """F14, F17."""
    assert "NUL" in why_no_name("a\0") and "half a surrogate" in why_no_name("\ud83d")
    assert why_no_name("\udcff") is None and why_no_name("猫") is None
    for name in ("n" * 300, "a\0", "\ud83d", "x"):
        assert not is_there(tmp_path / name)
