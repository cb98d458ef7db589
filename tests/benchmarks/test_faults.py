"""The script that hurts runs: what it compares, and damage of every kind to a checkpoint."""

import json
import random
import types

import jax
import jax.numpy as jnp

from flax_sd.training.checkpoints import Checkpoints


def test_what_is_compared_is_what_no_clock_decides(tmp_path):
    from benchmarks.faults import runs as runs

    for name, seconds in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name / "loras").mkdir(parents=True)
        (tmp_path / name / "loras" / "step-1.safetensors").write_bytes(b"same")
        (tmp_path / name / "lora.safetensors").write_bytes(name.encode())
        (tmp_path / name / f"{name}.safetensors").write_bytes(name.encode())
        line = {"step": 1, "loss": 0.5, "grad_norm": 1, "lr": 1e-3, "images_per_second": seconds}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    a, b = (runs.result(tmp_path / name) for name in ("a", "b"))
    assert runs.differing(a, b) == ["lora.safetensors"]


def test_no_damage_to_a_checkpoint_passes(tmp_path):
    from benchmarks.faults import files as files
    from benchmarks.faults import runs as runs

    checkpoints = Checkpoints(tmp_path / "whole" / "checkpoints", 5)
    for step in (runs.STEPS - runs.EVERY, runs.STEPS):
        leaf = jnp.arange(40.0) + step
        checkpoints.save(step, {"w": leaf, "key": jax.random.key(0), "step": jnp.int32(step)})
    checkpoints.close()
    bench = types.SimpleNamespace(folder=tmp_path, times=30, draw=random.Random(0))
    for row in files.damage(bench):
        assert row["times"] == 30 and row["another state than was saved"] == "never"
        assert row["found, and the one before taken"] >= 1
