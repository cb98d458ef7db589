"""The notebooks for free machines, run on this one: a tiny model, two steps, tiny images."""

import html
import os
import pathlib
import re
import shutil
import subprocess
import sysconfig

import nbformat
import pytest
from nbclient import NotebookClient

import flax_sd
from tests.training_runs import make_images

DOCS = pathlib.Path(flax_sd.__file__).parents[1] / "docs"
OPTIONS = """--train.remat none --data.resolution 32 --data.buckets none
  --data.held_out_share none --validation.every none --lora.rank 2 --lora.alpha 2
  --sample.every none --sample.steps 2 --sample.prompts a"""


@pytest.fixture
def parameters(tmp_path, model):
    """The first cell of code as a user would write it, for what is here."""
    images = tmp_path / "pictures"
    images.mkdir()
    make_images(images, 6)
    values = {
        "MODEL": str(model),
        "PICTURES": str(images),
        "OUTPUT": str(tmp_path / "run"),
        "PROMPT": "a lemon",
        "OPTIONS": " ".join(OPTIONS.split()),
        "STEPS": 2,
        "TRAIN_STEPS": 2,
    }
    return "\n".join(f"{name} = {value!r}" for name, value in values.items())


def names_of(code: str) -> set[str]:
    return set(re.findall("^([A-Z_]+) =", code, re.M))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of Jupyter's own packages
@pytest.mark.parametrize("name", ["colab", "kaggle"])
def test_every_cell_runs(tmp_path, monkeypatch, compile_cache, parameters, name):
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parent))
    commands = sysconfig.get_path("scripts")  # where flax-sd is, also if no one activated it
    monkeypatch.setenv("PATH", commands, prepend=os.pathsep)
    notebook = nbformat.read(DOCS / f"{name}.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    assert names_of(parameters) < names_of(cell.source)
    cell.source += f"\n{parameters}"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "run" / "lora.safetensors").is_file()
    shown = [out.get("data", {}) for c in notebook.cells for out in c.get("outputs", ())]
    data_report, report = (
        html.unescape(data["text/html"]) for data in shown if "srcdoc" in data.get("text/html", "")
    )
    assert "6 images and 6 captions are used" in data_report
    assert "data:image/png;base64," in report and "samples/" not in report
    assert sum("image/png" in data for data in shown) == 2


@pytest.mark.parametrize("name", ["colab", "kaggle"])
@pytest.mark.parametrize(
    ("capability", "driver", "wheel"),
    [
        ("7.5", "580.65.06", "jax[cuda13]"),  # T4
        ("7.5", "550.54.15", "jax[cuda12]"),
        ("6.0", "580.65.06", "jax[cuda12]"),  # P100
        ("12.0", "595.1", "jax[cuda13]"),
    ],
)
def test_the_wheel_fits_the_gpu_and_its_driver(monkeypatch, name, capability, driver, wheel):
    notebook = nbformat.read(DOCS / f"{name}.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if "def packages" in c.source)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    said = f"{capability}, {driver}\n" * 2  # of two GPUs
    monkeypatch.setattr(subprocess, "check_output", lambda *_, **__: said)
    there = {"SOURCE": ""}
    exec(cell.source.partition("\nprint(")[0], there)
    assert there["packages"]()[1].startswith(f"{wheel}==")


@pytest.mark.parametrize("name", ["colab", "kaggle"])
def test_every_setting_is_a_field_of_a_form(name):
    notebook = nbformat.read(DOCS / f"{name}.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    settings = [line for line in cell.source.splitlines() if not line.startswith("#")]
    assert [line for line in settings if "  # @param {type:" not in line] == []
