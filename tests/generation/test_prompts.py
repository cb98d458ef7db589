import json

import pytest

from flax_sd.errors import UserError
from flax_sd.generation.prompts import Row, Settings, faults, read_rows
from flax_sd.samplers import SAMPLERS, SCHEDULES

DEFAULTS = Settings(seed=5, steps=3).model_dump()


CHOICES = f"{', '.join(SAMPLERS)}; and behind a name {', '.join(SCHEDULES)}, as in dpmpp_2m_karras"


def write(tmp_path, name, *lines):
    path = tmp_path / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_text_has_a_prompt_a_line(tmp_path):
    path = write(tmp_path, "p.txt", "a cat", "", "  ein Bär\r", "   ", '{"prompt": "x"}')
    rows = read_rows(path, DEFAULTS)
    assert [row.prompt for row in rows] == ["a cat", "ein Bär", '{"prompt": "x"}']
    assert {(row.seed, row.steps) for row in rows} == {(5, 3)}


def test_options_of_sd_scripts(tmp_path):
    """F12."""
    path = write(
        tmp_path,
        "p.TXT",
        "# a comment --w 3",
        "a cat --n bad, worse --w 64 --h 96 --d 7 --l 5.5 --s 2 --ss k_euler_a",
        "a -- dash --no-hands --W 8",
    )
    first, second = read_rows(path, DEFAULTS)
    assert first.model_dump(exclude={"clip_skip", "images_per_prompt", "max_token_length"}) == {
        "prompt": "a cat",
        "negative_prompt": "bad, worse",
        "width": 64,
        "height": 96,
        "seed": 7,
        "guidance_scale": 5.5,
        "steps": 2,
        "sampler": "k_euler_a",
    }
    assert (second.prompt, second.width, second.seed) == ("a -- dash --no-hands", 8, 5)


def test_options_that_cannot_be_read_are_named_with_their_lines(tmp_path):
    """F12."""
    lines = ["a", "b --cn x.png --w wide", "c --w 8 --w 16", "d --w 65", "e --n", "f --ss heunn"]
    with pytest.raises(UserError) as caught:
        read_rows(write(tmp_path, "p.txt", *lines), {})
    assert str(caught.value).split("\n  ")[1:] == [
        "line 2: --cn is not read here: --n, --w, --h, --d, --s, --l, --ss are",
        "line 2: --w is 'wide': should be a whole number",
        "line 3: --w is there twice",
        "line 4: width is 65: should be a multiple of 8, such as 64",
        "line 5: --n has no text",
        f"line 6: sampler: there is no sampler 'heunn' (did you mean heun?): there are {CHOICES}",
    ]


def test_byte_order_mark_is_no_character(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"\xef\xbb\xbfa cat\n")
    assert read_rows(path, {})[0].prompt == "a cat"


def test_json_rows_differ_from_the_flags(tmp_path):
    own = {
        "prompt": "two\nlines",
        "negative_prompt": "bad",
        "seed": 9,
        "width": 64,
        "height": 40,
        "steps": 7,
        "guidance_scale": 3,
        "sampler": "euler_a",
        "images_per_prompt": 2,
        "clip_skip": 1,
        "max_token_length": 150,
    }
    path = write(tmp_path, "p.jsonl", json.dumps(own), "", '{"prompt": "b", "width": null}')
    first, second = read_rows(path, DEFAULTS)
    assert first.model_dump() == own
    assert second == Row(prompt="b", **DEFAULTS)


def test_every_bad_row_is_named_with_its_line(tmp_path):
    path = write(
        tmp_path,
        "p.jsonl",
        '{"prompt": "fine"}',
        '{"prompt": "a", "guidance": 3}',
        "",
        '{"prompt": "b", "steps": "many", "seed": 1.5}',
        '{"seed": 1}',
        '{"prompt": "c", "height": 44, "sampler": "eulr"}',
        '{"prompt": "d"',
        '"a prompt"',
        '{"prompt": "\\ud83d"}',
        '{"prompt": "e", "prompt": "f"}',
        '{"prompt": "e", "colour": 3}',
    )
    with pytest.raises(UserError) as caught:
        read_rows(path, {})
    lines = str(caught.value).split("\n  ")
    assert lines[0] == f"{path} cannot be used:"
    expected = [
        "line 2: there is no key guidance: did you mean guidance_scale?",
        "line 4: seed is 1.5: should be a valid integer",
        'line 4: steps is "many": should be a valid integer',
        "line 5: has no prompt",
        "line 6: height is 44: should be a multiple of 8, such as 48",
        f"line 6: sampler: there is no sampler 'eulr' (did you mean euler?): there are {CHOICES}",
        "line 7: Expecting ',' delimiter at column 15",
        "line 8: a JSON str, not an object",
        "line 9: prompt holds half a surrogate pair, which is no character",
        "line 10: the key 'prompt' occurs twice: keep one",
    ]
    assert lines[1:-1] == expected
    assert lines[-1].startswith("line 11: there is no key colour: keys are negative_prompt, seed")


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("p.txt", b"\n \n", "holds no prompt"),
        ("p.txt", b"a cat\ncaf\xe9\n", "is not UTF-8 \\(byte 0xe9 in line 2\\): save it as UTF-8"),
        ("p.csv", b"a cat", "should end in .txt"),
        ("p.jsonl", None, "cannot be read: No such file"),
    ],
)
def test_files_that_hold_no_prompts(tmp_path, name, data, message):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=f"{name} {message}"):
        read_rows(path, {})


def test_faults():
    assert faults(Settings().model_dump()) == []
    assert faults({"width": 8, "height": 1016, "seed": 2**63 - 2, "images_per_prompt": 2}) == []
    bad = {
        "width": 0,
        "height": 43,
        "steps": 0,
        "images_per_prompt": 0,
        "clip_skip": -1,
        "seed": -2,
        "guidance_scale": float("nan"),
    }
    assert faults(bad) == [
        "width is 0: should be a multiple of 8, such as 8",
        "height is 43: should be a multiple of 8, such as 40",
        "steps is 0: should be 1 or more",
        "images_per_prompt is 0: should be 1 or more",
        "clip_skip is -1: should be 0 or more",
        "seed is -2: should be -1 or more, where -1 draws one",
        "guidance_scale is nan: should be a number",
    ]
    assert faults({"seed": 2**63}) == [f"seed is {2**63}: should be below 2^63"]
