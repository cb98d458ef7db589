import json
import re

import numpy as np
import pytest
from PIL import Image

from flax_sd.errors import UserError
from flax_sd.generation import png

RECORD = {
    "file_name": "00003_seed42.png",
    "text": "a cat, 猫",
    "negative_prompt": "bad: hands",
    "seed": 42,
    "width": 640,
    "height": 512,
    "steps": 20,
    "guidance_scale": 7.5,
    "sampler": "euler_a",
    "clip_skip": 1,
    "model": "sd, tuned",
    "model_hash": "0123456789",
    "vae": None,
    "loras": [
        {"name": "cat", "hash": "aaaaaaaaaaaa", "scale": 0.8},
        {"name": "ink", "hash": "bbbbbbbbbbbb", "scale": 1.0},
    ],
    "dtype": "float32",
}
PIXELS = np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)


def webui_parse(text):
    """As `parse_generation_parameters` of AUTOMATIC1111's web UI takes the text apart."""
    *lines, last = text.strip().split("\n")
    assert len(re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)) >= 3
    prompt, negative = [], []
    for line in lines:
        if line.startswith("Negative prompt:"):
            negative.append(line.removeprefix("Negative prompt:").strip())
        else:
            (negative or prompt).append(line)
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    values = {key: json.loads(v) if v.startswith('"') else v for key, v in found}
    return "\n".join(prompt), "\n".join(negative), values


def test_embeddings_are_named_by_file_and_hash():
    embedding = {"token": "<cat>", "name": "my cat", "hash": "cccccccccccc"}
    _, _, values = webui_parse(png.parameters({**RECORD, "embeddings": [embedding]}))
    assert values["TI hashes"] == "my cat: cccccccccccc"


def test_a_image_without_words_says_nothing_of_them():
    words = {"text", "negative_prompt", "guidance_scale", "clip_skip", "vae", "loras"}
    record = {name: value for name, value in RECORD.items() if name not in words}
    prompt, negative, values = webui_parse(png.parameters(record))
    assert (prompt, negative) == ("", "")
    assert "Seed" in values and not {"CFG scale", "VAE", "Clip skip", "Lora hashes"} & set(values)


def test_parameters_as_web_uis_read_them():
    prompt, negative, values = webui_parse(png.parameters(RECORD))
    assert prompt == "a cat, 猫 <lora:cat:0.8> <lora:ink:1>"
    assert negative == "bad: hands"
    assert values == {
        "Steps": "20",
        "Sampler": "Euler a",
        "CFG scale": "7.5",
        "Seed": "42",
        "Size": "640x512",
        "Model hash": "0123456789",
        "Model": "sd, tuned",
        "Clip skip": "2",
        "Lora hashes": "cat: aaaaaaaaaaaa, ink: bbbbbbbbbbbb",
        "Version": "flax_sd",
    }


def test_parameters_leave_out_what_has_no_effect():
    plain = RECORD | {"loras": [], "guidance_scale": 1.0, "clip_skip": 0, "model": "sd"}
    assert png.parameters(plain) == (
        "a cat, 猫\nSteps: 20, Sampler: Euler a, CFG scale: 1, Seed: 42, Size: 640x512, "
        "Model hash: 0123456789, Model: sd, Version: flax_sd"
    )


def test_a_image_and_its_settings_round_trip(tmp_path):
    path = tmp_path / "a.png"
    png.write(path, PIXELS, RECORD)
    with Image.open(path) as image:
        assert image.text["parameters"] == png.parameters(RECORD)
        np.testing.assert_array_equal(np.asarray(image), PIXELS)
    assert png.read_record(path) == RECORD
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_equal_images_have_equal_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        png.write(tmp_path / name, PIXELS, RECORD)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_other_files_have_no_settings(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "foreign.png")
    (tmp_path / "text.png").write_text("no picture")
    assert png.read_record(tmp_path / "foreign.png") == {}
    assert png.read_record(tmp_path / "text.png") == {}
    assert png.read_record(tmp_path / "missing.png") is None


def test_a_image_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot write .*missing/a.png: No such file"):
        png.write(tmp_path / "missing" / "a.png", PIXELS, RECORD)
