"""Every config of the project, at a tiny size: it trains two steps and leaves its results."""

import pathlib

import numpy as np
import pytest

import flax_sd
from flax_sd.config import file
from tests import tiny

CONFIGS = pathlib.Path(flax_sd.__file__).parents[1] / "configs"
# Sizes and places alone; what makes the recipe stays as it is.
SMALL = {
    "data.resolution": 32,
    "train.steps": 2,
    "train.batch_size": 2,
    "log.every": 1,
}
WITHOUT = ("model.vae", "data.held_out", "data.held_out_base", "sample.every")
FEW = ("lora.rank", "validation.every")
OWN_TESTS = ("ddpm", "textual_inversion")  # models and results of other kinds
RESULT = {"lora": "lora.safetensors", "full": "model/unet", "vae": "model/vae"}


@pytest.fixture(scope="module")
def families(tmp_path_factory, compile_cache):
    """Folders of tiny models, by how the names of their configs begin."""
    folder = tmp_path_factory.mktemp("models")
    tiny.save("sd2", folder / "sd21")
    tiny.build_xl().save_pretrained(folder / "sdxl")
    return {path.name: path for path in folder.iterdir()}


def names():
    return [path.stem for path in sorted(CONFIGS.glob("*.yaml")) if path.stem not in OWN_TESTS]


def small(name, model, images, drawn=None):
    """The flags that make a config tiny."""
    config = file.load(CONFIGS / f"{name}.yaml")
    sizes = {"model.path": model, "data.path": images, **SMALL}
    sizes["train.accumulate"] = min(config.train.accumulate, 2)
    flags = [word for option, value in sizes.items() for word in (f"--{option}", value)]
    written = file.read_yaml(CONFIGS / f"{name}.yaml")
    for option in (*WITHOUT, *FEW):
        section, key = option.split(".")
        if key in written.get(section, {}):
            flags += [f"--{option}", 2 if option in FEW else "none"]
    if config.data.regularisation:
        flags += ["--data.regularisation", drawn, "--data.class_images", 1]
    if config.data.held_out_share:
        flags += ["--data.held_out_share", 0.5]
    return [*flags, "--sample.prompts"]


@pytest.mark.parametrize("name", names())
def test_it_trains(train, model, families, images, tmp_path, name):
    path = CONFIGS / f"{name}.yaml"
    own = families.get(name[:4], model)
    run = train("a", *small(name, own, images, tmp_path / "class"), config=path)
    assert run.status == 0, run.err
    assert [line["step"] for line in run.metrics() if "loss" in line][-1] == 2
    assert (run.folder / RESULT[file.load(path).train.mode]).exists()


def test_the_references_own_command_trains_in_float16(train, model, images):
    """theirs ends in "Attempting to unscale FP16 gradients" (diffusers' issues 6086 to 10910)."""
    flags = [*small("sd14_lora", model, images), "--compute_dtype", "float16"]
    run = train("a", *flags, config=CONFIGS / "sd14_lora.yaml")
    assert run.status == 0, run.err
    assert all(np.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in run.metrics())
    moved = [value for key, value in run.lora().items() if "lora_up" in key]
    assert all(value.dtype == np.float32 and value.any() for value in moved)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_it_says_what_it_takes_and_gives(name):
    head = (CONFIGS / f"{name}.yaml").read_text("utf-8").split("model:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "python train.py" in head
    assert all(f"{word}: " in head for word in ("Hardware", "Memory", "Expect"))
