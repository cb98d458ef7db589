"""The measures of the bundled base, on a tiny model and a few images."""

import importlib
import json
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from tests.benchmarks.conftest import parse
from tests.training_runs import make_images


@pytest.fixture
def call(monkeypatch, folders, tmp_path):
    """Runs a script's main on the tiny model and three images."""
    (tmp_path / "pictures").mkdir()
    images = make_images(tmp_path / "pictures", 3)

    def run(name, *arguments):
        module = importlib.import_module(f"benchmarks.{name}")
        monkeypatch.setattr("benchmarks.common.options.BASE_SIDE", 32)
        fixed = ["--model", str(folders / "sd1"), "--data", str(images)]
        monkeypatch.setattr(sys, "argv", [name, *fixed, *map(str, arguments)])
        module.main()

    return run


@pytest.mark.slow
def test_the_error_of_each_band_of_timesteps(call, capsys, folders):
    call("base_model.losses", "--model", folders / "sd1", folders / "sd1")
    *bands, mean = parse(capsys.readouterr().out)
    assert [row["timesteps"] for row in bands][::9] == ["0–99", "900–999"]
    values = [float(row[str(folders / "sd1")]) for row in bands]
    assert all(value > 0 for value in values)
    assert float(mean[str(folders / "sd1")]) == pytest.approx(np.mean(values), abs=1e-3)


def test_the_curve_has_a_line_and_a_dot_for_each_measure(call, tmp_path):
    rows = [{"step": 0, "val_loss": 1.0}]
    rows += [{"step": n, "loss": 1.0 / n} for n in range(1, 41)]
    rows[-1]["val_loss"] = 0.1
    metrics, out = tmp_path / "metrics.jsonl", tmp_path / "curve.svg"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    call("base_model.losses", "--metrics", metrics, "--curve", out)
    drawing = ET.parse(out).getroot()
    kinds = [element.tag.split("}")[1] for element in drawing]
    assert kinds.count("circle") == 2 and kinds.count("polyline") == 1
    line = next(e for e in drawing if e.tag.endswith("polyline")).attrib["points"].split()
    heights = [float(point.split(",")[1]) for point in line]
    assert len(line) == 4 and heights == sorted(heights)  # a falling loss goes down the page


@pytest.mark.slow
def test_the_sheets(call, tmp_path, monkeypatch):
    from benchmarks.base_model import sheets

    few = {"SAMPLERS": ("ddim",), "COUNTS": (2,), "STEPS": 2, "COMPOSITIONS": "a; b"}
    for name, value in few.items():
        monkeypatch.setattr(sheets, name, value)
    call("base_model.sheets", "--out", tmp_path)
    for name in ("base_known", "base_new", "base_samplers"):
        with Image.open(tmp_path / f"{name}.jpg") as sheet:
            assert min(sheet.size) > 40


@pytest.mark.slow
def test_reconstructions_are_measured(call, capsys, tmp_path):
    call("base_model.figures", "--sheet", tmp_path / "sheet.png")
    assert "3 held-out images: PSNR mean" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").is_file()


def test_a_sample_is_ranked_among_all_images():
    from benchmarks.base_model import retrieval

    images = np.eye(4)
    samples = np.array([[1, 0, 0, 0], [0.6, 0.5, 0, 0], [0, 0, 0.1, 0], [0, 0, 1, 0.9]])
    assert retrieval.ranks(samples, images).tolist() == [0, 1, 0, 1]
