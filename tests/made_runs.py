"""Folders as runs leave them, written without training."""

import json
import math
import pathlib

import yaml
from PIL import Image

from flax_sd.config import Config, to_dict
from flax_sd.run_folder.sample_grid import grid_info

SET = {"path": "bundled:style", "pictures": 9, "captions": 10, "left_out": 1, "hash": "abc"}
PLACES = [(0, 0, 48, 48, "a cat"), (48, 0, 48, 48, "a dog")]  # in the grids
MIDDLES = [49.5, 149.5, 249.5]  # of the bands below


def make_run(
    folder: pathlib.Path,
    steps: int = 60,
    *,
    every: int = 20,
    factor: float = 1.0,
    **options: object,
) -> pathlib.Path:
    """A run of so many steps that logged every second one, and measured and drew at `every`.

    Its loss at step n is factor · exp(-n / 40), and its images a second are 2.
    """
    config = Config.model_validate({**options, "output": str(folder), "train": {"steps": steps}})
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
    write_lines(folder / "metrics.jsonl", [_metrics(n, factor) for n in range(2, steps + 1, 2)])
    measured = [n for n in range(0, steps + 1, every)]
    rows = [_validation(n, name, factor) for n in measured for name in ("val_loss", "train_subset")]
    write_lines(folder / "validation.jsonl", rows)
    (folder / "samples").mkdir()
    for n in measured:
        colour = (4 * n % 256, 90, 160)
        grid, path = Image.new("RGB", (96, 48), colour), folder / "samples" / f"step-{n:06d}.png"
        grid.save(path, pnginfo=grid_info(PLACES))
    entry = {"step": 0, "jax": "0.10.2", "device": "cpu", "data": {"train": SET}}
    (folder / "environment.json").write_text(json.dumps([entry]))
    return folder


def write_lines(path: pathlib.Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _metrics(n: int, factor: float) -> dict:
    return {
        "step": n,
        "loss": factor * math.exp(-n / 40),
        "grad_norm": None if n == 4 else 1 / n,
        "lr": 1e-4,
        "images_per_second": 2.0,
        "host_gb": 1.5,
    }


def _validation(n: int, name: str, factor: float) -> dict:
    mean = factor * (0.5 + 0.1 * math.exp(-n / 40))
    return {
        "step": n,
        "set": name,
        "mean": mean,
        "ci95": 0.05,
        "change": None if n == 0 else mean - 0.6 * factor,
        "change_ci95": None if n == 0 else 0.01,
        "count": 12,
        "bands": [[100 * k, 100 * k + 99, mean * (3 - k)] for k in range(3)],
    }
