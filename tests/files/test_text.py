"""Text files that users write."""

import pytest

from flax_sd.errors import UserError
from flax_sd.files.text import decoded, parse_object, read_text


def test_a_file_with_or_without_a_byte_order_mark(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "a").write_text("é\n", encoding)
        assert read_text(tmp_path / "a") == "é\n"


def test_another_encoding_is_named_with_its_line(tmp_path):
    (tmp_path / "a").write_bytes(b"one\ntwo \xe9\n")
    with pytest.raises(UserError, match=r"a is not UTF-8 \(byte 0xe9 in line 2\)"):
        read_text(tmp_path / "a")
    with pytest.raises(UserError, match="b cannot be read: No such file"):
        read_text(tmp_path / "b")


def test_a_line_of_json():
    assert parse_object('{"a": 1}') == {"a": 1}
    assert parse_object('{"a": 1') == "Expecting ',' delimiter at column 8"
    assert parse_object("[1]") == "a JSON list, not an object"


def test_encodings_that_a_mark_names_are_read(tmp_path):
    for encoding in ("utf-16", "utf-32"):
        (tmp_path / "a").write_text("é\n", encoding)
        assert read_text(tmp_path / "a") == "é\n"
    (tmp_path / "a").write_bytes("é".encode("utf-16") + b"x")
    with pytest.raises(UserError, match="a is not UTF-16"):
        read_text(tmp_path / "a")
    (tmp_path / "a\x1b").write_bytes("one\ntwo".encode("utf-16-le"))
    with pytest.raises(UserError, match=r"a\\x1b holds NUL bytes \(line 1\).*save it as UTF-8"):
        read_text(tmp_path / "a\x1b")


def test_ends_of_lines():
    """F4."""
    assert decoded(b"one\r\ntwo\rthree\n", "a") == "one\ntwo\rthree\n"
    assert decoded(b"one\rtwo\r", "a") == "one\ntwo\n"


def test_objects_that_json_reads_and_nobody_means():
    assert parse_object('{"a": {"b": 1, "b": 2}}') == "the key 'b' occurs twice: keep one"
    assert isinstance(parse_object("[" * 100_000), str)
    assert "4300" in parse_object('{"a": %s}' % ("1" * 5000))
