import json

import numpy as np
import pytest
from PIL import Image

from flax_sd.config import DataConfig


@pytest.fixture
def folder(tmp_path):
    """A folder of five images, each of a colour of its own, with metadata.jsonl."""
    rows = []
    for i in range(5):
        Image.new("RGB", (20 + i, 12), (40 * i, 10, 200)).save(tmp_path / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": f"caption {i}"})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.fixture
def config():
    """Makes a DataConfig of a folder at 8 px."""

    def make(path, **values):
        return DataConfig(path=str(path), **{"resolution": 8, **values})

    return make


@pytest.fixture
def noise():
    """An RGB image, 24 wide and 16 high, no two parts of which are alike."""
    values = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    return Image.fromarray(values)
