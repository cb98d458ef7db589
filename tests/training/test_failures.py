"""Runs that go wrong: nothing that is not finite or not whole is left behind."""

import errno
import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from flax_sd.weights.safetensors import TensorFile, write
from tests.training_runs import contents


@pytest.fixture
def edited(model, tmp_path):
    """A copy of the model with one tensor of a component filled with a value."""

    def make(component, key, value):
        folder = tmp_path / "edited"
        shutil.copytree(model, folder)
        path = next((folder / component).glob("*.safetensors"))
        file = TensorFile(path)
        tensors = {name: np.array(file[name]) for name in file}
        tensors[key][...] = value
        write(path, tensors, {"format": "pt"})
        return folder

    return make


def finite(folder: pathlib.Path) -> bool:
    """Whether every LoRA file, metric and checkpoint that is there is finite."""
    for path in folder.rglob("*.safetensors"):
        file = TensorFile(path)
        if not all(np.isfinite(np.array(file[key])).all() for key in file):
            return False
    log = folder / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return all(np.isfinite(float(v)) for line in lines for v in json.loads(line).values())


def test_a_nan_in_the_model_stops_the_run_at_step_one(train, edited):
    folder = edited("unet", "conv_in.bias", np.nan)
    run = train("a", "--model.path", folder)
    assert run.status == 2
    assert run.err.startswith("error: step 1: the loss, its gradient or the update is not finite")
    assert finite(run.folder) and not list((run.folder / "checkpoints").glob("[0-9]*"))
    assert "no step before it was good" in run.err and "last checkpoint" not in run.err
    page = (run.folder / "report.html").read_text("utf-8")
    assert "Ended after step 0 of 4 by an error:" in page and "not finite" in page


def test_a_nan_in_the_model_is_seen_before_by_held_out_images(train, edited, images):
    folder = edited("vae", "encoder.conv_in.bias", np.nan)
    run = train("a", "--model.path", folder, "--data.held_out", images)
    assert run.status == 2
    assert "error: step 0: val_loss, the loss on held-out images, is nan" in run.err


def test_an_absurd_learning_rate_stops_the_run_and_the_checkpoint_stays_good(train):
    run = train("a", "--optim.learning_rate", 1e38, "--train.steps", 9, "--checkpoint.every", 1)
    assert run.status == 2
    step = int(run.err.split("step ")[1].split(":")[0])
    assert 1 <= step <= 3 and finite(run.folder)
    saved = sorted(int(p.name) for p in (run.folder / "checkpoints").glob("[0-9]*"))
    assert saved == list(range(1, step))
    assert "Traceback" not in run.err and run.err.count("\n") == 1


def test_debug_shows_the_trace(train, tmp_path):
    run = train("a", "--data.path", tmp_path / "nowhere", "--debug")
    assert run.status == 2 and "Traceback" in run.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora.targets", "nothing"], "lora targets 'nothing': no linear or convolution"),
        (["--lora.targets", "("], "not a regular expression"),
        (["--model.clip_skip", 9], "model.clip_skip is 9, the text encoder has 2 layers"),
        (["--data.on_bad", "stop", "--data.resolution", 8], None),
        (["--sample.sampler", "eular", "--sample.prompts", "a"], "there is no sampler 'eular'"),
    ],
)
def test_options_that_do_not_fit_the_model(train, flags, message):
    run = train("a", *flags)
    if message is None:
        assert run.status == 0, run.err
        return
    assert run.status == 2 and message in run.err and "Traceback" not in run.err


def test_a_bad_image_stops_the_run_if_asked_to(train, images, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(images, data)
    (data / "2.png").write_bytes(b"no picture")
    run = train("a", "--data.path", data, "--data.on_bad", "stop")
    assert run.status == 2 and "1 of 7 images cannot be used" in run.err
    assert "2.png: " in run.err and not run.folder.exists()


def test_a_vae_of_another_width_is_refused(train, model, tmp_path):
    folder = tmp_path / "vae"
    shutil.copytree(model / "vae", folder)
    config = json.loads((folder / "config.json").read_text()) | {"latent_channels": 8}
    (folder / "config.json").write_text(json.dumps(config))
    run = train("a", "--model.vae", folder)
    assert run.status == 2 and "does not fit AutoencoderKL" in run.err
    assert "Traceback" not in run.err


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("flax_sd.files.atomic.os.replace", "config.yaml: No space left"),
        ("flax_sd.files.atomic.os.fsync", "step-000002.safetensors: No space left"),
        ("orbax.checkpoint.CheckpointManager.save", "cannot write checkpoints to"),
        ("flax_sd.run_folder.step_lines.json.dumps", None),
    ],
)
def test_a_full_disk_is_named_and_the_run_goes_on_later(train, monkeypatch, place, named):
    with monkeypatch.context() as patched:
        patched.setattr(place, full)
        run = train("a")
    assert run.status == 2 and "No space left on device" in run.err
    assert named is None or named in run.err
    assert "Traceback" not in run.err and run.err.count("\n") == 1
    again = train("a")
    assert again.status == 0, again.err
    assert not [name for name in contents(run.folder) if name.endswith((".part", ".tmp"))]
