import json
import logging

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from flax_sd import StableDiffusion, data
from flax_sd.cli import sample as command
from flax_sd.config import DataConfig
from flax_sd.config.flags import read_flags
from flax_sd.errors import UserError
from flax_sd.generation import run as sample
from flax_sd.generation.options import SampleOptions
from flax_sd.lora.formats import kohya
from flax_sd.weights import safetensors
from flax_sd.weights.model_files import ModelFiles
from tests import tiny
from tests.parity import randomise
from tests.processes import finish, start
from tests.random_loras import random_lora

PROMPTS = ["a cat", "two dogs", "ein Bär"]
STEPS = ["--steps", "2", "--sampler", "ddim", "--width", "40", "--height", "24", "--seed", "7"]


def flags(model, out, *more):
    return ["--model", str(model), "--out", str(out), *STEPS, *map(str, more)]


def run(model, out, *more):
    return sample.run(read_flags(SampleOptions, flags(model, out, *more)))


@pytest.fixture(scope="session")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "p.txt"
    path.write_text("\n".join(PROMPTS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def drawn(model, prompts, tmp_path_factory):
    """Three prompts, two images each, four at a time: the last batch is padded."""
    out = tmp_path_factory.mktemp("drawn") / "out"
    assert run(model, out, "--prompts", prompts, "--images-per-prompt", 2, "--batch-size", 4) == 0
    return out


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_each_image_is_that_of_its_row_and_seed_alone(drawn, model):
    sd = StableDiffusion.load(model)
    for row, prompt in enumerate(PROMPTS):
        for seed in (7, 8):
            alone = sd.generate(prompt, "", 2, sampler="ddim", seed=seed, height=24, width=40)
            ours = pixels(drawn / f"{row:05d}_seed{seed}.png")
            assert ours.shape == (24, 40, 3) and ours.std() > 1
            assert np.abs(ours - alone[0]).max() <= 1  # another batch, other rounding


def test_the_folder_is_a_data_set(drawn):
    images = data.open_images(DataConfig(path=str(drawn), resolution=16))
    assert not images.bad and len(images) == 6
    assert images.captions(2) == ("two dogs",)
    lines = (drawn / "metadata.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[3])["file_name"] == "00001_seed8.png"
    assert json.loads(lines[3])["seed"] == 8 and json.loads(lines[3])["model"] == "tiny-sd"


def test_the_same_command_changes_nothing(drawn, model, prompts, capsys):
    before = {path: path.stat().st_mtime_ns for path in drawn.glob("*.png")}
    more = "--prompts", prompts, "--images-per-prompt", 2, "--batch-size", 3
    assert run(model, drawn, *more) == 0
    assert before == {path: path.stat().st_mtime_ns for path in drawn.glob("*.png")}
    assert "6 images to generate, 6 already there" in capsys.readouterr().out


def test_a_killed_run_goes_on_to_the_same_bytes(drawn, model, prompts):
    whole = files(drawn)
    for name in ("00000_seed8.png", "00002_seed7.png", "metadata.jsonl"):
        (drawn / name).unlink()
    (drawn / ".00000_seed8.png.part").write_bytes(b"half")
    more = "--prompts", prompts, "--images-per-prompt", 2, "--batch-size", 4
    assert run(model, drawn, *more) == 0
    assert files(drawn) == whole


def test_other_settings_are_refused(drawn, model, prompts):
    before = files(drawn)
    with pytest.raises(UserError, match=r"00000_seed8.png: guidance_scale is 7.5, not 3.0"):
        run(model, drawn, "--prompts", prompts, "--seed", 8, "--guidance-scale", 3)
    assert files(drawn) == before


@pytest.mark.slow
def test_mixed_rows_and_a_lora(model, tmp_path, caplog):
    """Rows of two programs; a LoRA in the place of its path; unguided rows ignore negatives."""
    kohya.write(tmp_path / "cat.safetensors", random_lora(model))
    text = {"clip_skip": 1, "max_token_length": 150}
    rows = [
        {"prompt": "a", "negative_prompt": "n"},
        {"prompt": "b " * 99 + "c", "guidance_scale": 1, "seed": 3, **text},
        {"prompt": "c", "guidance_scale": 2.0},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lora, out = f"{tmp_path / 'cat.safetensors'}:0.5", tmp_path / "out"
    with caplog.at_level(logging.WARNING, "flax_sd"):
        assert run(model, out, "--prompts", tmp_path / "p.jsonl", "--lora", lora) == 0
    assert not caplog.records
    sd = StableDiffusion.load(model)
    sd.add_lora(tmp_path / "cat.safetensors", 0.5)
    common = {"num_inference_steps": 2, "sampler": "ddim", "height": 24, "width": 40}
    expected = {
        "00000_seed7.png": sd.generate("a", "n", seed=7, **common),
        "00001_seed3.png": sd.generate(
            rows[1]["prompt"], guidance_scale=1, seed=3, **text, **common
        ),
        "00002_seed7.png": sd.generate("c", guidance_scale=2, seed=7, **common),
    }
    for name, alone in expected.items():
        assert np.abs(pixels(out / name) - alone[0]).max() <= 1
    with Image.open(out / "00000_seed7.png") as image:
        assert image.text["parameters"].startswith("a <lora:cat:0.5>\nNegative prompt: n\nSteps")


def test_weights_are_read_of_the_variant_and_in_the_dtype(tmp_path):
    tiny.save("sd1", tmp_path, variant="fp16")
    more = ["--variant", "fp16", "--dtype", "bfloat16", "--vae", tmp_path]
    words = flags(tmp_path, tmp_path / "out", "--prompt", "a", *more)
    sd = sample._load(sample.prepare(read_flags(SampleOptions, words)))
    for network in (sd.unet, sd.vae, sd.text_encoders[0]):
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(network))} == {"bfloat16"}


@pytest.mark.slow
def test_an_embedding_and_another_vae_are_drawn_with(model, tmp_path):
    """Each as the Python interface does it, and neither as the model alone."""
    path, vae = tmp_path / "my-cat.safetensors", tmp_path / "vae"
    rows = np.random.default_rng(0).normal(size=(2, 12)).astype(np.float32)
    safetensors.write(path, {"emb_params": rows})
    randomise(tiny.build("sd1").vae, 7).save_pretrained(vae)
    sd = StableDiffusion.load(model)

    def ours(name, value):
        assert run(model, tmp_path / name, "--prompt", "a <sks>", f"--{name}", value) == 0
        return pixels(tmp_path / name / "00000_seed7.png")

    def theirs():
        common = {"num_inference_steps": 2, "sampler": "ddim", "height": 24, "width": 40}
        return sd.generate("a <sks>", seed=7, **common)[0].astype(int)

    plain = theirs()
    sd.add_embedding(path, "<sks>")
    pairs = [(ours("embedding", f"{path}:<sks>"), theirs())]
    sd.remove_embedding("<sks>")
    sd.vae = ModelFiles(model, vae=vae).load("vae", "float32")
    pairs.append((ours("vae", vae), theirs()))
    for drawn, expected in pairs:
        assert np.abs(drawn - expected).max() <= 1
        assert np.abs(drawn - plain).max() > 10


def test_devices_share_a_batch(drawn, model, prompts, tmp_path):
    code = """
import sys, jax
jax.config.update("jax_num_cpu_devices", 2)
from flax_sd.cli import sample
sys.exit(sample(sys.argv[1:]))
"""
    more = "--prompts", prompts, "--images-per-prompt", 2, "--batch-size", 5
    printed = finish(start(code, *flags(model, tmp_path / "out", *more)), timeout=400)
    assert "2 x cpu" in printed and "images/s" in printed
    for path in drawn.glob("*.png"):
        assert np.abs(pixels(path) - pixels(tmp_path / "out" / path.name)).max() <= 1


def test_interrupted(model, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "_load", interrupt)
    assert run(model, tmp_path / "out", "--prompt", "a") == 130
    assert "stopped: 1 image left. Run the same command again to resume." in capsys.readouterr().out


def test_all_mistakes_at_once_before_anything_is_read(tmp_path, capsys):
    bad = ["--prompt", "a", "--prompts", "b", "--lora", "l:x", "--width", "44", "--sampler", "e"]
    args = ["--model", str(tmp_path / "none"), *bad, "--batch-size", "0", "--vae", "./none"]
    assert command([*args, "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[4].startswith("  --sampler: there is no sampler 'e': there are ddim, ")
    assert lines[:4] + lines[5:] == [
        "error: 7 things are wrong:",
        "  give either --prompt or --prompts FILE: both are given",
        "  LoRA l:x is not there; write PATH or PATH:SCALE",
        "  --width is 44: should be a multiple of 8, such as 48",
        "  --batch-size is 0: should be 1 or more",
        f"  folder {tmp_path / 'none'} does not exist",
        "  folder ./none does not exist",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "more, message",
    [
        ([], "error: give either --prompt or --prompts FILE: neither is given"),
        (["--prompt", "a", "--clip-skip", "3"], "clip_skip is 3: this text encoder has 2 layers"),
        (["--prompt", "a", "--steps", "1001"], "1001"),
        (["--prompt", "a", "--vae", "{out}"], "out does not exist"),
    ],
)
def test_what_the_model_cannot_draw(model, tmp_path, capsys, more, message):
    more = [text.format(out=tmp_path / "out") for text in more]
    assert command(flags(model, tmp_path / "out", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unknown_flags(capsys):
    assert command(["--model", "x", "--promt", "a cat"]) == 2
    assert "--promt: there is no such option; did you mean prompt?" in capsys.readouterr().err


def test_the_first_images_that_need_a_program_are_announced(model, tmp_path, capsys):
    lines = tmp_path / "p.jsonl"
    rows = [{"width": 40}, {"width": 48}, {"width": 40}, {"width": 40, "sampler": "euler_karras"}]
    rows += [{"width": 40, "sampler": "euler_a"}, {"width": 40, "sampler": "lcm", "steps": 3}]
    lines.write_text("\n".join(json.dumps({"prompt": "a cat", **row}) for row in rows))
    asked = ["--model", str(model), "--out", str(tmp_path / "out"), "--prompts", str(lines)]
    asked += ["--steps", "2", "--height", "24", "--batch-size", "1"]
    sample.run(read_flags(SampleOptions, asked))
    said = [line for line in capsys.readouterr().out.splitlines() if "generating the first" in line]
    assert len(said) == 3  # samplers share a program if both or none draw noise
    assert f"40 x 24, 1 at a time, with {model}, which compiles" in said[0]
    assert "48 x 24" in said[1] and "40 x 24, with noise at each step, 1 at" in said[2]


@pytest.mark.slow
def test_a_refiner_makes_the_last_steps(tmp_path):
    """As the Python interface does it; what cannot be is said before weights are read."""
    tiny.build_xl().save_pretrained(tmp_path / "base")
    tiny.build_refiner().save_pretrained(tmp_path / "refiner")
    given = ["--model", tmp_path / "base", "--refiner", tmp_path / "refiner", "--prompt", "a cat"]
    given += ["--seed", "7", "--steps", "5", "--height", "24", "--width", "16"]
    words = [*map(str, given), "--refiner-start", "0.6", "--out", str(tmp_path / "out")]
    assert command(words) == 0
    steps = {"num_inference_steps": 5, "seed": 7}
    latents = StableDiffusion.load(tmp_path / "base").generate(
        "a cat", denoising_end=0.6, output="latents", height=24, width=16, **steps
    )
    expected = StableDiffusion.load(tmp_path / "refiner").generate(
        "a cat", latents=latents, denoising_start=0.6, **steps
    )[0]
    drawn = tmp_path / "out" / "00000_seed7.png"
    assert np.abs(pixels(drawn) - expected).max() <= 1
    with Image.open(drawn) as image:
        said = image.text["parameters"]
        assert "Refiner: refiner [" in said and "Refiner switch at: 0.6" in said
    record = json.loads((tmp_path / "out" / "metadata.jsonl").read_text())
    assert record["refiner"] == "refiner" and record["refiner_start"] == 0.6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--refiner-start", "1"], "--refiner-start is 1.0: should be above 0 and below 1"),
        (["--refiner", "{model}"], "is not SDXL: a refiner goes on with an SDXL model's latents"),
        (["--refiner", "{model}/none"], "none does not exist"),
    ],
)
def test_what_a_refiner_cannot_be(model, tmp_path, capsys, more, message):
    more = [text.format(model=model) for text in more]
    assert command(flags(model, tmp_path / "out", "--prompt", "a", *more)) == 2
    assert message in capsys.readouterr().err
