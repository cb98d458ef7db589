"""The command: its processes, what it prints and writes, and what it refuses."""

import json

import numpy as np
import pytest

from flax_sd.commands.bench import command, starts
from flax_sd.commands.bench.starts import Figures
from flax_sd.commands.bench.work import Work, read_work
from flax_sd.config.commands import BenchOptions
from flax_sd.config.flags import read_flags
from flax_sd.errors import UserError


def bench(words):
    """What `flax-sd bench` does with these words."""
    return command.main(read_flags(BenchOptions, words))


@pytest.fixture
def asked(monkeypatch):
    """Takes the place of the processes: what was asked of them; diffusers fails if told to."""
    calls, broken = [], []

    def measure(side, case, work, cache):
        calls.append((side, case, work, cache))
        if side in broken:
            raise UserError("theirs whole_step ended with status 1: RuntimeError: no")
        again = 0.5 if work.seconds else None
        return Figures(20.0 if side == "theirs" else 40.0, 50.0, 2.0, "cpu", again)

    monkeypatch.setattr(starts, "measure", measure)
    monkeypatch.setattr(starts, "missing", lambda: [])
    return calls, broken


def test_cold_and_warm_share_a_folder_and_sides_take_turns(asked, folders, tmp_path, capsys):
    out = tmp_path / "bench.json"
    words = ["--model", folders / "sd1", "--repeats", 2, "--resolution", 32, "--batch-size", 3]
    assert bench([*map(str, words), "--out", str(out), "--quick"]) == 0
    calls, _ = asked
    assert [(side, case) for side, case, *_ in calls[:6]] == [
        ("ours", "whole_step"),
        ("theirs", "whole_step"),
        ("ours", "whole_step"),
    ] * 2
    assert {case for _, case, *_ in calls[6:]} == {"txt2img"} and len(calls) == 12
    caches = [cache for side, _, _, cache in calls if side == "ours"]
    assert caches[0] == caches[1] != caches[2] == caches[3] and not caches[0].exists()
    works = [work for _, _, work, _ in calls]
    assert [bool(work.seconds) for work in works[:3]] == [False, True, True]
    assert {(work.resolution, work.size, work.steps) for work in works} == {(32, 3, 4)}
    printed = capsys.readouterr().out
    assert "12 of 12: first image, warm: 40 s on cpu, then 0.5 s each" in printed
    rows = [
        line.split("  ") for line in printed.splitlines() if line.startswith("first step, cold")
    ]
    assert rows[0][-1] == "2.00x slower"
    record = json.loads(out.read_text())
    assert record["command"].startswith("flax-sd bench --model") and record["versions"]["jax"]
    assert [row["flax_sd"] for row in record["rows"]] == [
        40.0,
        40.0,
        2.0,
        2.0,
        40.0,
        40.0,
        6.0,
        2.0,
    ]


def test_without_diffusers_its_column_is_empty(asked, monkeypatch, capsys):
    monkeypatch.setattr(starts, "missing", lambda: ["torch", "peft"])
    assert bench(["--only", "training"]) == 0
    printed = capsys.readouterr().out
    assert (
        "diffusers is left out; not installed: torch, peft" in printed and "slower" not in printed
    )
    assert [side for side, *_ in asked[0]] == ["ours", "ours"]
    assert "2 of 2" in printed


@pytest.mark.parametrize("average", [0.1, 3.0])
def test_a_busy_machine_is_said(asked, folders, tmp_path, monkeypatch, capsys, average):
    monkeypatch.setattr("os.getloadavg", lambda: (average, 0.0, 0.0))
    out = tmp_path / "bench.json"
    bench(["--model", str(folders / "sd1"), "--only", "images", "--out", str(out)])
    busy = average > 1
    assert ("other programs are running" in capsys.readouterr().out) is busy
    assert json.loads(out.read_text())["machine"].endswith(", load 3.0") is busy


def test_what_diffusers_cannot_run_is_said(asked, capsys):
    asked[1].append("theirs")
    assert bench(["--only", "training"]) == 0
    printed = capsys.readouterr().out
    assert "diffusers is left out of training steps: theirs whole_step ended with" in printed
    asked[1].append("ours")
    with pytest.raises(UserError, match="ended with status 1"):
        bench(["--only", "training"])


def test_what_is_wrong_is_named_before_anything_is_measured(asked, tmp_path):
    for words, message in [
        (["--resolution", "100"], "--resolution is 100: should be a multiple of 8"),
        (["--model", str(tmp_path)], "model_index.json|is not a model|no such"),
        (["--out", str(tmp_path)], "is a folder: name a file, as bench.json"),
        (["--batch-size", "0"], "batch.size"),
    ]:
        with pytest.raises(UserError, match=message):
            bench(words)
    assert asked[0] == []


def test_packages_are_looked_for_and_not_imported(monkeypatch):
    assert starts.missing() == []
    monkeypatch.setattr(starts, "NEEDED", ("torch", "no_such_package"))
    assert starts.missing() == ["no_such_package"]


def test_a_process_that_fails_is_reported(tmp_path):
    with pytest.raises(UserError, match="ours txt2img ended with status 1: .*nowhere"):
        starts.measure("ours", "txt2img", Work(tmp_path / "nowhere"), tmp_path)


def test_both_sides_do_the_same_work(folders):
    from flax_sd.commands.bench import ours, theirs

    work = read_work(Work(folders / "sd1", 2, resolution=24, steps=2).argument())
    images = [side.txt2img(work)() for side in (ours, theirs)]
    assert images[0].shape == images[1].shape == (2, 24, 24, 3)
    np.testing.assert_allclose(images[0], images[1], atol=1e-3)
    assert all(np.isfinite(side.whole_step(work)()) for side in (ours, theirs))


@pytest.mark.slow
def test_a_tiny_model_is_measured(folders, capsys, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.setattr(starts, "missing", lambda: ["torch"])
    words = ["--model", str(folders / "sd1"), "--quick", "--steps", "1", "--only", "images"]
    assert bench(words) == 0
    _, *rows = capsys.readouterr().out.splitlines()[-5:]
    names = [row.split("  ")[0] for row in rows]
    assert names == [
        "first image, cold, s",
        "first image, warm, s",
        "images, per s",
        "peak memory, images, GiB",
    ]
    for name, row in zip(names, rows, strict=True):
        assert float(row.removeprefix(name).split()[0]) > 0
