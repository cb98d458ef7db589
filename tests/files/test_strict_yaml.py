"""F10: YAML of which nothing is dropped."""

import pytest

from flax_sd.files import strict_yaml


@pytest.mark.parametrize(
    "written", ["1e-4", "010", "10:12", "no", "0x10", "1_000", "=", "2024-01-01"]
)
def test_a_value_is_its_text(written):
    assert strict_yaml.parse(f"a: {written}\nb: [{written}]") == {"a": written, "b": [written]}


def test_a_null_is_none_unless_it_is_quoted():
    assert strict_yaml.parse("a: null\nb: ~\nc:\nd: 'null'\ne: ''") == {
        "a": None,
        "b": None,
        "c": None,
        "d": "null",
        "e": "",
    }
    assert strict_yaml.parse("") is None and strict_yaml.parse("# only a comment") is None


def test_keys_know_their_lines():
    raw = strict_yaml.parse("a: 1\n\nb:\n  c: 2\n")
    assert [key.line for key in raw] == [1, 3] and next(iter(raw["b"])).line == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train: {steps: 1}\nseed: 1\ntrain: {}",
            "train occurs twice, in lines 1 and 3: leave one",
        ),
        ("a: {b: {c: 1,\n c: 2}}", "^c occurs twice, in lines 1 and 2: leave one$"),
        ("a: [{b: 1, b: 2}]", "b occurs twice, in lines 1 and 1"),
        ("a: 1\n'a': 2", "a occurs twice"),
        ("a: 1\na: 2\nb: 1\nb: 2", "a occurs twice.*; b occurs twice, in lines 3 and 4"),
        ("a: {<<: {b: 1, b: 2}}", "b occurs twice"),
    ],
)
def test_a_key_that_is_there_twice(text, message):
    with pytest.raises(ValueError, match=message):
        strict_yaml.parse(text)


def test_anchors_and_merged_mappings():
    """A mapping's own value goes before a merged one; that is no key twice."""
    text = "x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\nz: *x"
    assert strict_yaml.parse(text) == {
        "x": {"a": "1", "b": "2"},
        "y": {"a": "1", "b": "3"},
        "z": {"a": "1", "b": "2"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\tb: 1", r"line 2, column 1: found character '\\t' .* \(indent with spaces\)"),
        ("a: 1\nb: [1, 2", "not YAML: line 2, column .*expected ',' or ']'"),
        ("a: !env X", "line 1, column 4: could not determine a constructor for the tag '!env'"),
        ("a: *b", "line 1, column 4: found undefined alias"),
        ("? [1]\n: 2", "line 1, column 3: found a key that is no text"),
        ("&a {b: *a}", "found unconstructable recursive node"),
        ("a\0b", "not YAML: unacceptable character"),
        ("a: 1\n---\nb: 2", "expected a single document|found another document"),
    ],
)
def test_what_is_no_yaml_is_named_with_its_place(text, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        strict_yaml.parse(text)
