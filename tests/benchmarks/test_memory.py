"""Recomputation takes less memory and more operations; the batches follow the lines."""

import json
import shutil

import pytest


@pytest.fixture
def deep(folders, tmp_path):
    """A tiny model with blocks enough that one of them is a small part; weights are not read."""
    folder = tmp_path / "deep"
    shutil.copytree(folders / "sd1", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    config |= {"block_out_channels": [8, 8], "sample_size": 8}
    for name in ("down_block_types", "up_block_types"):
        config[name] *= 2
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_every_remat(rows_of, deep):
    plain, blocks, full = rows_of("compiled.memory", "--batches", 1, 2, "--model", deep)
    assert plain["work"] == "deep, float32, remat none, cpu"
    costs = [float(row["TFLOP an image"]) for row in (plain, blocks, full)]
    assert costs == sorted(set(costs))
    beside = [float(row["GB beside, 2 a device"]) for row in (plain, blocks)]
    assert beside[1] < beside[0]


def test_batches_lie_on_the_line():
    from benchmarks.compiled import memory

    row = memory.row("tiny", held=2.0, sizes={1: 1.5, 2: 2.0}, flops=1e12)
    assert [row[f"batch in {size} GB"] for size in memory.SIZES] == [4, 8, 15, 22, 37]
    large = memory.row("large", held=9.0, sizes={1: 1.5, 2: 2.0}, flops=1e12)
    assert large["batch in 8 GB"] == 0


def test_batches_lie_between_those_that_were_compiled():
    from benchmarks.compiled import memory

    sizes = {4: 5.0, 1: 1.0, 2: 4.0}
    rooms = {0.9: 0, 1.0: 1, 3.9: 1, 4.6: 3, 5.0: 4, 7.1: 8}
    assert {room: memory.largest(sizes, room) for room in rooms} == rooms
