"""The folder of docs/walk.md: the check finds everything that is the matter with it."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from flax_sd.config import DataConfig
from flax_sd.data import check, open_images
from flax_sd.data.check import KINDS
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.weights.hub import BUNDLED

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


@pytest.fixture
def messy(tmp_path, monkeypatch):
    """The folder as open images."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import build_messy_set

    build_messy_set.build(tmp_path / "messy")
    return open_images(DataConfig(path=str(tmp_path / "messy"), resolution=128))


def test_everything_is_found(messy):
    tokenizer = Tokenizer.load(BUNDLED / "base" / "tokenizer")
    found = [(finding.kind, finding.name) for finding in check(messy, tokenizer.cut_off)]
    assert len(messy) + len(messy.bad) == 30
    assert sorted(found) == [
        ("animated", "moving.gif"),
        ("cropped", "tall.png"),
        ("cropped", "wide.png"),
        ("duplicate", "good 2.png"),
        ("duplicate", "saved again.bmp"),
        ("empty caption", "empty caption.png"),
        ("left out", "a thread.png"),
        ("left out", "a web page.png"),
        ("left out", "bad disk.png"),
        ("left out", "cut off.jpg"),
        ("left out", "empty file.png"),
        ("left out", "latin caption.png"),
        ("left out", "no caption.png"),
        ("long caption", "wordy.png"),
        ("small", "tiny.png"),
        ("turned", "turned.jpg"),
        ("unused", "notes.txt"),
    ]
    between_sets_or_masks = {"in two sets", "black mask", "no mask"}
    of_metadata = {"unknown orientation", "unknown colours", "guessed range", "converted"}
    assert {kind for kind, _ in found} == KINDS.keys() - between_sets_or_masks - of_metadata


def test_what_is_used_is_the_drawing_whatever_its_file(messy):
    drawings = {"turned.jpg": "banjo", "printed.jpg": "bikini", "moving.gif": "barber-pole"}
    for name, drawing in drawings.items():
        with Image.open(BUNDLED / "style" / f"{drawing}.png") as image:
            own = np.asarray(image.convert("RGB"), float)
        used = np.asarray(messy.original(messy.names.index(name)), float)
        assert np.abs(used - own).mean() < 8, name
