"""A tiny model, a few captioned images, and the training command in this process."""

import json
import os
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

from flax_sd import cli
from flax_sd.config import file as config_files
from flax_sd.training import prediction_check
from flax_sd.weights.safetensors import TensorFile

CONFIG = {
    "data": {"resolution": 32},
    "train": {"steps": 4, "batch_size": 2},
    "lora": {"rank": 2},
    "optim": {"learning_rate": 1e-3},
    "checkpoint": {"every": 2},
    "log": {"every": 1},
}
DDPM_UNET = {
    "_class_name": "UNet2DModel",
    "sample_size": 32,  # which the run's resolution replaces
    "block_out_channels": [8, 12],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "attention_head_dim": None,
    "dropout": 0.2,
}
DDPM_SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "variance_type": "fixed_large",
    "clip_sample": True,
}
DDPM_INDEX = {
    "_class_name": "DDPMPipeline",
    "unet": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "DDPMScheduler"],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that run a whole command compile a training step or a sampler, which is slow."""
    for item in items:
        if {"train", "drawn"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def compile_cache():
    """Runs are many and programs few: each is compiled once, in whatever process."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    return os.environ["JAX_COMPILATION_CACHE_DIR"]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A folder as diffusers saves it, of a random SD 1 of a few thousand weights."""
    from tests import tiny  # torch and diffusers take seconds to import

    folder = tmp_path_factory.mktemp("models") / "tiny-sd"
    tiny.save("sd1", folder)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Seven images and their captions."""
    return make_images(tmp_path_factory.mktemp("pictures"), 7)


def make_images(folder: pathlib.Path, count: int, seed: int = 0) -> pathlib.Path:
    rng, rows = np.random.default_rng(seed), []
    for i in range(count):
        values = rng.integers(0, 256, (5, 4, 3), np.uint8)
        Image.fromarray(values).resize((40, 50)).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": f"image number {i}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


class Ended(NamedTuple):
    """How a run ended: exit status, output folder, what it printed."""

    status: int
    folder: pathlib.Path
    out: str
    err: str

    def metrics(self) -> list[dict[str, float]]:
        return metrics(self.folder)

    def lora(self) -> dict[str, np.ndarray]:
        return tensors(self.folder / "lora.safetensors")


def tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All of a safetensors file."""
    file = TensorFile(path)
    return {key: np.array(file[key]) for key in file}


def metrics(folder: pathlib.Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_same_lora(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """Asserts that two LoRAs differ by 1e-5 of the largest weight, by rounding alone.

    And each `up`, which starts at zero, by 1e-3 of how far it moved: Adam divides gradients by
    their own size, and so enlarges the rounding of small ones.
    """
    assert ours.keys() == theirs.keys()
    largest = max(np.abs(value).max() for value in theirs.values())
    for key, value in theirs.items():
        assert np.abs(ours[key] - value).max() <= 1e-5 * largest, key
        if "lora_up" in key:
            assert np.linalg.norm(ours[key] - value) <= 1e-3 * np.linalg.norm(value) > 0, key


@pytest.fixture(autouse=True)
def without_check_of_predictions(request, monkeypatch):
    """Of random weights it says nothing, and it compiles another program."""
    if "test_prediction_check" not in request.node.nodeid:
        monkeypatch.setattr(prediction_check, "wanted", lambda config: False)


@pytest.fixture(scope="session")
def config_file(tmp_path_factory, model, images):
    """The config of a run of four steps."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    own = {"model": {"path": str(model)}, "data": {**CONFIG["data"], "path": str(images)}}
    path.write_text(yaml.safe_dump(CONFIG | own))
    return path


@pytest.fixture(scope="session")
def sizes(tmp_path_factory):
    """A folder of a DDPM's configs without weights."""
    folder = tmp_path_factory.mktemp("sizes")
    files = {
        "model_index.json": DDPM_INDEX,
        "unet/config.json": DDPM_UNET,
        "scheduler/scheduler_config.json": DDPM_SCHEDULER,
    }
    for name, value in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value))
    return folder


@pytest.fixture
def parse(config_file):
    """The config of the tiny run with flags."""
    return lambda *flags: config_files.parse(config_file, [str(flag) for flag in flags])


@pytest.fixture
def task(parse):
    """Makes the task of flags, with weights."""
    return lambda *flags: task_of(parse(*flags))


def task_of(config):
    """The task of a config, with weights."""
    from flax_sd.system.precision import resolve_dtype
    from flax_sd.training.setup.base_model import load_model
    from flax_sd.training.setup.task import make_task

    return make_task(config, load_model(config, resolve_dtype(config.compute_dtype)))


def batch_of(task, b=2):
    """A batch of random images and captions, as a step reads it."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(b, 32, 32, 3)).astype(np.float32)
    ids = rng.integers(0, 49000, (b, 77)).astype(np.int32)
    return task.encode(task.frozen, pixels, (ids,))


@pytest.fixture
def train(config_file, tmp_path, capsys, monkeypatch):
    """Runs the training command: train("a", "--train.steps", 6) trains in the folder a."""
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))

    def run(output, *flags, config=config_file):
        folder = tmp_path / output
        capsys.readouterr()
        status = cli.train([str(config), "--output", str(folder), *map(str, flags)])
        return Ended(status, folder, *capsys.readouterr())

    return run
