"""The comparison with torch runs, and both sides come to one result; times are not tested."""

import json
import types

import pytest

from flax_sd.system.flops import count_flops


@pytest.mark.slow
def test_a_network(rows_of):
    (row,) = rows_of("against_torch.speed", "unet")
    assert row["work"] == "unet, batch 1, float32"
    assert float(row["largest difference"]) <= 1e-4
    for side in ("flax_sd", "torch"):
        assert 0 < float(row[f"{side}, GiB"]) <= float(row[f"{side} whole, GiB"]) * 1.05


@pytest.mark.slow
def test_a_whole_step_in_two_dtypes(rows_of):
    (row,) = rows_of("against_torch.speed", "whole_step", "--our-dtype", "bfloat16")
    assert row["work"] == "whole_step, batch 1, bfloat16, torch float32"
    assert float(row["ratio of time"]) > 0


@pytest.mark.slow
def test_the_use_of_a_gpu():
    from benchmarks.against_torch import speed
    from benchmarks.common.options import SMALL
    from benchmarks.compiled import flops
    from flax_sd.commands.bench.work import Work, read_work

    work = read_work(Work(SMALL, 2, "bfloat16", remat=True).argument())
    theirs = work._replace(dtype="float16", compiled=True)
    assert speed.label("lora_step", work, theirs) == (
        "lora_step, batch 2, bfloat16, torch float16, remat, torch.compile"
    )
    config = json.loads((SMALL / "unet" / "config.json").read_text())
    counted = 2 * flops.count(config)[1]
    side = types.SimpleNamespace(device="NVIDIA H100 80GB HBM3", seconds=[counted / 989e12 * 4])
    use = speed.use_of_device("lora_step", work, side)
    assert use["MFU"] == "25%" and use["flax_sd, TFLOP/s"] == pytest.approx(989 / 4)
    side.device = "cpu"
    assert speed.use_of_device("lora_step", work, side) == {}


@pytest.mark.slow
def test_remat_and_compile_reach_both_sides(monkeypatch):
    import torch

    from benchmarks.against_torch.sides import ours, theirs
    from benchmarks.common.options import SMALL
    from flax_sd.commands.bench.work import Work

    plain, remat = Work(SMALL), Work(SMALL, remat=True, compiled=True)
    flops = [count_flops(*ours._lora_step(work)) for work in (plain, remat)]
    assert flops[1] > 1.2 * flops[0]
    asked = []
    kind = theirs.diffusers.UNet2DConditionModel
    monkeypatch.setattr(kind, "enable_gradient_checkpointing", lambda self: asked.append("remat"))
    monkeypatch.setattr(torch, "compile", lambda network: asked.append("compile") or network)
    theirs.lora_step(plain)
    assert asked == []
    theirs.lora_step(remat)
    assert asked == ["remat", "compile"]
    assert theirs.compiles(remat) and not theirs.compiles(plain)
