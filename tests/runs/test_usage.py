import pathlib
import re
from types import SimpleNamespace

import jax
import pytest

from flax_sd.runs import usage

STATUS = pathlib.Path("/proc/self/status")


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux has /proc")
def test_the_peak_of_the_process_is_the_systems():
    kilobytes = int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[1])
    assert 0.98 * kilobytes * 1024 <= usage.memory()["host_gb"] * usage.GB <= 2e12


def test_the_fullest_device_counts(monkeypatch):
    full, empty, silent = (
        SimpleNamespace(memory_stats=lambda stats=stats: stats)
        for stats in ({"peak_bytes_in_use": 3_000_000_000, "bytes_in_use": 1}, {}, None)
    )
    monkeypatch.setattr(jax, "local_devices", lambda: [empty, full, silent])
    assert usage.memory()["device_gb"] == 3
    monkeypatch.setattr(jax, "local_devices", lambda: [empty, silent])
    assert "device_gb" not in usage.memory()


def test_a_system_that_does_not_say(monkeypatch):
    monkeypatch.setattr(usage, "resource", None)
    monkeypatch.setattr(jax, "local_devices", lambda: [])
    assert usage.memory() == {}


@pytest.mark.parametrize(("platform", "gb"), [("linux", 1024e-9), ("darwin", 1e-9)])
def test_systems_count_in_their_own_units(monkeypatch, platform, gb):
    monkeypatch.setattr(usage.sys, "platform", platform)
    fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=1))
    monkeypatch.setattr(usage, "resource", fake)
    assert usage.memory()["host_gb"] == pytest.approx(gb)
