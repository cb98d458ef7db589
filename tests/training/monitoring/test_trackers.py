import importlib.util
import json
import struct
import sys

import numpy as np
import pytest
import tensorboardX.proto.event_pb2
import yaml
from PIL import Image

from flax_sd.errors import UserError
from flax_sd.run_folder.step_lines import StepLines
from flax_sd.training.monitoring.trackers import Trackers
from tests import processes


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_line_is_there_when_it_is_logged(tmp_path):
    trackers = Trackers(tmp_path)
    trackers.log(10, {"loss": np.float32(0.5), "lr": 1e-4, "grad_norm": float("inf")})
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line == {"step": 10, "loss": 0.5, "lr": 1e-4, "grad_norm": None}
    trackers.image(10, "samples", np.zeros((4, 5, 3), np.uint8))
    trackers.close()


def test_resuming_drops_the_lines_past_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = StepLines(path)
    for step in (10, 20, 30, 40):
        metrics.append({"step": step, "loss": 1 / step, "name é": 2})
    with path.open("a") as file:
        file.write('{"step": 20, "los')  # torn by a kill
    before = path.read_text().splitlines()
    Trackers(tmp_path, resumed_at=30).log(40, {"loss": 7})
    after = path.read_text().splitlines()
    assert after[:3] == before[:3]
    assert json.loads(after[3]) == {"step": 40, "loss": 7}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl"]
    Trackers(tmp_path)  # from the start: a kill came before the first checkpoint
    assert steps_of(path) == []


def test_truncating_what_is_not_there(tmp_path):
    StepLines(tmp_path / "metrics.jsonl").truncate_after(3)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl: Is a directory"):
        StepLines(tmp_path / "metrics.jsonl").append({"step": 1})
    with pytest.raises(UserError, match=r"cannot read .*metrics\.jsonl: Is a directory"):
        Trackers(tmp_path)


@pytest.mark.parametrize(
    ("extra", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")]
)
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, extra, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"log\.{extra} needs .*{package}.*flax_sd\[{extra}\]"):
        Trackers(tmp_path, **{extra: True})


def tensorboard_events(folder):
    """The events of all files: each is length, its checksum, the message and its checksum."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield tensorboardX.proto.event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_tensorboard_gets_numbers_images_and_words(tmp_path):
    known = {"config": {"seed": 3}, "environment": {"jax": "0.10.2", "data": {"path": "é"}}}
    trackers = Trackers(tmp_path, tensorboard=True, **known)
    trackers.log(5, {"loss": 0.25})
    trackers.image(5, "samples", np.full((6, 7, 3), 9, np.uint8))
    trackers.close()
    values = [
        (e.step, v) for e in tensorboard_events(tmp_path / "tensorboard") for v in e.summary.value
    ]
    (scalar,) = [(step, v.simple_value) for step, v in values if v.tag == "loss"]
    assert scalar == (5, 0.25)
    (image,) = [v.image for _, v in values if v.tag == "samples"]
    assert (image.height, image.width) == (6, 7)
    words = {
        v.tag.split("/")[0]: v.tensor.string_val[0].decode()
        for _, v in values
        if v.tensor.string_val
    }
    assert {name: yaml.safe_load(text) for name, text in words.items()} == known
    # Markdown shows lines of four spaces as they are.
    assert all(line.startswith("    ") for text in words.values() for line in text.splitlines())


OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
WANDB = """
import pathlib, sys, numpy as np
from flax_sd.training.monitoring.trackers import Trackers
for resumed_at in (None, 5):
    trackers = Trackers(
        pathlib.Path(sys.argv[1]),
        wandb=True,
        config={"seed": 0},
        environment={"flax_sd_source": "0123abcd"},
        resumed_at=resumed_at,
    )
    trackers.log(5 if resumed_at is None else 10, {"base_loss": 0.25})
    trackers.image(10, "before_after", np.zeros((6, 7, 3), np.uint8))
    trackers.close()
print("done")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_offline(tmp_path):
    out = processes.run(WANDB, tmp_path, **OFFLINE, WANDB_PROJECT="portraits-of-mine")
    assert "done" in out
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    ids = {run.name.split("-")[3] for run in runs}  # what may follow tells two of one second apart
    assert len(ids) == 1  # the same run, gone on
    for run in runs:
        (log,) = run.glob("*.wandb")
        words = (b"seed", b"environment", b'{"flax_sd_source":"0123abcd"}', b"base_loss")
        words += (b"portraits-of-mine",)
        assert [word for word in words if word not in log.read_bytes()] == []
        (path,) = run.glob("files/media/images/before_after*.png")
        with Image.open(path) as image:
            assert image.size == (7, 6)


NOT_FIRST = """
import pathlib, sys
import jax
from flax_sd.system import distributed
from flax_sd.training.monitoring.trackers import Trackers
distributed.initialize_distributed()
output = pathlib.Path(sys.argv[1])
trackers = Trackers(output, tensorboard=True)
trackers.log(1, {"loss": jax.process_index()})
distributed.any_process(True)
trackers.close()
"""


@pytest.mark.slow
def test_only_the_first_process_writes(tmp_path):
    processes.run_two(NOT_FIRST, tmp_path)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 0.0}
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
