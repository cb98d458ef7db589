"""The options that the benchmarks share: which model, how often, and whether to save."""

import argparse
import json
import pathlib

from flax_sd import data
from flax_sd.config import DataConfig

ROOT = pathlib.Path(__file__).parents[2]  # of the checkout
SMALL = ROOT / "flax_sd" / "bundled" / "base"
REAL = pathlib.Path("runs/real_size/sd15")
STRIDE = 8  # pixels a latent
BASE_SIDE = 128  # pixels of the images that the bundled base was trained on


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options of every benchmark."""
    parser.add_argument("--small", action="store_true", help="little work, one run each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the rows for report.py")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The same, and the model."""
    add_common(parser)
    parser.add_argument(
        "--model", type=pathlib.Path, help=f"{REAL}, or with --small the bundled one"
    )


def find_model(parser: argparse.ArgumentParser, options: argparse.Namespace) -> pathlib.Path:
    """The model's folder."""
    model = options.model or (SMALL if options.small else REAL)
    if not model.is_dir():
        parser.error(
            f"{model} is not there: python -m benchmarks.common.real_size sd15 --write-only"
        )
    return model.resolve()


def side_of(model: pathlib.Path) -> int:
    """Side of the images that the model was trained on, in pixels."""
    return json.loads((model / "unet" / "config.json").read_text())["sample_size"] * STRIDE


def base_images(path: str) -> data.Images:
    """Opens images as the bundled base was trained on them."""
    return data.open_images(DataConfig(path=path, resolution=BASE_SIDE, center_crop=True))
