"""Text files that users write."""

import pytest

from flax_sd.errors import UserError
from flax_sd.text_file import parse_object, read_text


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
    assert parse_object('{"a": {"b": 1, "b": 2}}') == '"b" is there twice'
