"""A warning, once, when unified memory takes arrays that the GPU has no room for."""

import io
from types import SimpleNamespace

import jax
import pytest
from rich.console import Console

from flax_sd.system.progress import Progress
from flax_sd.training.monitoring.memory import SpillWatch, spilled


def gpu(peak, limit=16e9, platform="gpu"):
    stats = {"peak_bytes_in_use": peak, "bytes_limit": limit}
    return SimpleNamespace(platform=platform, id=3, memory_stats=lambda: stats)


UNIFIED = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "2.0"}  # so that the GPU itself has 8 GB


@pytest.mark.parametrize(
    "device, environ, expected",
    [
        (gpu(9e9), UNIFIED, 1e9),
        (gpu(9e9), {"XLA_CLIENT_MEM_FRACTION": "2.0"}, 1e9),
        (gpu(7e9), UNIFIED, 0),
        (gpu(9e9), {}, 0),
        (gpu(9e9), {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".9"}, 0),
        (gpu(9e9, platform="cpu"), UNIFIED, 0),
        (gpu(9e9, platform="cpu"), {"XLA_CLIENT_MEM_FRACTION": "no number"}, 0),
    ],
)
def test_bytes_beyond_the_gpus_own(device, environ, expected):
    assert spilled(device, environ) == expected


def test_it_is_said_once(monkeypatch):
    monkeypatch.setenv(*next(iter(UNIFIED.items())))
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu(7e9), gpu(9e9)])
    out = io.StringIO()
    watch = SpillWatch(Progress(Console(file=out, width=200)))
    watch.look()
    watch.look()
    assert (
        out.getvalue().count("warning: the run used 1.00 GB more than the memory of device 3") == 1
    )
