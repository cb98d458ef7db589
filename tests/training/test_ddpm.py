"""Mode ddpm: a UNet of pixels from nothing, without captions, to a folder of diffusers."""

import json
import pathlib
import shutil

import diffusers
import jax
import numpy as np
import pytest
import torch
from flax import nnx
from PIL import Image

import flax_sd
from flax_sd import cli, data
from flax_sd.config import DataConfig, file
from flax_sd.config.flags import read_flags
from flax_sd.generation import run
from flax_sd.generation.image_grid import make_grid
from flax_sd.generation.job import prepare
from flax_sd.generation.options import SampleOptions
from flax_sd.training.outputs.preview_samplers import UnconditionalSampler
from flax_sd.training.setup.base_model import load_model
from tests import parity
from tests.training_runs import contents, make_images

CONFIG = pathlib.Path(flax_sd.__file__).parents[1] / "configs" / "ddpm.yaml"


@pytest.fixture(scope="module")
def uncaptioned(tmp_path_factory):
    folder = make_images(tmp_path_factory.mktemp("uncaptioned"), 5)
    (folder / "metadata.jsonl").unlink()
    return folder


@pytest.fixture(scope="module")
def ended(tmp_path_factory, uncaptioned, sizes):
    """A run of the recipe of two steps, and the same in two parts."""
    root = tmp_path_factory.mktemp("runs")
    small = {
        "model.path": sizes,
        "data.path": uncaptioned,
        "data.held_out": uncaptioned,
        "data.resolution": 16,
        "train.batch_size": 2,
        "train.ema_decay": 0.5,
        "optim.warmup_steps": 0,
        "sample.every": 2,
        "sample.count": 3,
        "sample.steps": 2,
        "log.every": 1,
    }
    flags = [str(word) for option, value in small.items() for word in (f"--{option}", value)]

    def train(name, steps):
        rest = ["--output", str(root / name), "--train.steps", str(steps)]
        assert cli.train([str(CONFIG), *flags, *rest]) == 0
        return root / name

    train("parts", 1)
    return train("whole", 2), train("parts", 2)


@pytest.mark.slow
def test_a_resumed_run_ends_in_the_same_bytes(ended):
    whole, parts = (contents(folder / "model") for folder in ended)
    assert whole == parts
    lines = [json.loads(line) for line in (ended[0] / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["val_loss"] == pytest.approx(1, rel=0.1)  # a new network puts out zero
    assert lines[-1]["val_loss"] < lines[0]["val_loss"]
    (made_with,) = json.loads((ended[0] / "environment.json").read_text())
    assert made_with["model_hash"] is None  # from nothing
    blank = [np.zeros((16, 16, 3), np.uint8)] * 3
    with Image.open(ended[0] / "samples" / "step-000002.png") as grid:
        assert grid.size == make_grid(blank, ["seed 0", "seed 1", "seed 2"], 3)[0].size


@pytest.mark.slow
def test_diffusers_draws_the_same_image_of_the_result(ended):
    folder = ended[0] / "model"
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    theirs = pipeline(1, generator, num_inference_steps=3, output_type="np").images
    ours = flax_sd.DDPM.load(folder).generate(1, 3, seed=7, output="float")
    assert ours.shape == (1, 16, 16, 3) and ours.std() > 0.05
    parity.assert_close(ours, theirs, parity.NETWORK)


@pytest.mark.slow
def test_the_command_draws_without_a_prompt(ended, tmp_path, capsys):
    model = str(ended[0] / "model")
    args = ["--model", model, "--out", str(tmp_path / "out"), "--seed", "7"]
    assert cli.sample([*args, "--steps", "3", "--images-per-prompt", "2"]) == 0
    drawn = flax_sd.DDPM.load(model).generate(2, 3, seed=7)
    for k, expected in enumerate(drawn):
        image = np.asarray(Image.open(tmp_path / "out" / f"00000_seed{7 + k}.png"))
        np.testing.assert_array_equal(image, expected)
    rows = (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["steps"] == 3 and json.loads(rows[0])["sampler"] == "ddpm"
    assert cli.sample([*args, "--prompt", "a cat", "--guidance-scale", "3"]) == 2
    said = capsys.readouterr().err
    assert "--prompt has no meaning" in said and "--guidance-scale has no meaning" in said


@pytest.mark.slow
def test_the_command_takes_size_sampler_and_batch_size(ended, tmp_path):
    model = str(ended[0] / "model")
    args = ["--model", model, "--out", str(tmp_path / "out"), "--seed", "7", "--steps", "3"]
    args += ["--width", "32", "--height", "24", "--sampler", "ddim"]
    assert cli.sample(args) == 0
    (expected,) = flax_sd.DDPM.load(model).generate(
        1, 3, sampler="ddim", seed=7, height=24, width=32
    )
    image = np.asarray(Image.open(tmp_path / "out" / "00000_seed7.png"))
    np.testing.assert_array_equal(image, expected)
    several = [*args, "--images-per-prompt", "5", "--batch-size", "2"]
    job = prepare(read_flags(SampleOptions, several))
    assert [(len(batch.images), batch.size) for batch in job.batches] == [(2, 2), (2, 2), (1, 2)]


@pytest.mark.slow
def test_the_command_reads_the_variant_in_the_dtype(ended, tmp_path):
    model = shutil.copytree(ended[0] / "model", tmp_path / "model")
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".fp16.safetensors"))
    flags = ["--variant", "fp16", "--dtype", "bfloat16", "--out", str(tmp_path / "out")]
    options = read_flags(SampleOptions, ["--model", str(model), *flags])
    unet = run._load(prepare(options)).unet
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(unet))} == {"bfloat16"}


def test_samples_are_as_the_config_says(sizes):
    small = ["--model.path", str(sizes), "--data.resolution", "16"]

    def drawn(*flags):
        counted = ["--sample.count", "3", "--sample.steps", "2", *flags]
        config = file.parse(CONFIG, [*small, *counted])
        return UnconditionalSampler(config, load_model(config, "float32")).generate({})

    plain = drawn()
    assert plain.shape == (3, 16, 16, 3)  # the samples of a run are 16 unless it says otherwise
    for flags in (["--sample.steps", "3"], ["--sample.seed", "1"], ["--sample.sampler", "ddpm"]):
        assert not np.array_equal(drawn(*flags), plain), flags


def test_images_need_no_captions(uncaptioned):
    cfg = DataConfig(path=str(uncaptioned), resolution=16)
    images = data.open_images(cfg, captioned=False)
    assert len(images) == 5 and images.captions(0) == ("",)
    assert data.summary(images, []) == f"{uncaptioned}: 5 images"
