import gc
import pathlib
import re
from types import SimpleNamespace

import jax
import pytest

from flax_sd.training.loop import Loop
from flax_sd.training.monitoring import memory
from flax_sd.training.monitoring.trackers import Trackers

STATUS = pathlib.Path("/proc/self/status")


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux has /proc")
def test_the_peak_of_the_process_is_the_systems():
    kilobytes = int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[1])
    assert 0.98 * kilobytes * 1024 <= memory.memory()["host_gb"] * memory.GB <= 2e12


def test_the_fullest_device_counts(monkeypatch):
    full, empty, silent = (
        SimpleNamespace(memory_stats=lambda stats=stats: stats)
        for stats in ({"peak_bytes_in_use": 3_000_000_000, "bytes_in_use": 1}, {}, None)
    )
    monkeypatch.setattr(jax, "local_devices", lambda: [empty, full, silent])
    assert memory.memory()["device_gb"] == 3
    monkeypatch.setattr(jax, "local_devices", lambda: [empty, silent])
    assert "device_gb" not in memory.memory()


def test_a_system_that_does_not_say(monkeypatch):
    monkeypatch.setattr(memory, "resource", None)
    monkeypatch.setattr(jax, "local_devices", lambda: [])
    assert memory.memory() == {}


@pytest.mark.parametrize(("platform", "gb"), [("linux", 1024e-9), ("darwin", 1e-9)])
def test_systems_count_in_their_own_units(monkeypatch, platform, gb):
    monkeypatch.setattr(memory.sys, "platform", platform)
    fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=1))
    monkeypatch.setattr(memory, "resource", fake)
    assert memory.memory()["host_gb"] == pytest.approx(gb)


def test_no_more_than_two_steps_are_under_way(train, monkeypatch):
    """M1: each holds its temporaries, 0.7 GB of the bundled base; a third would be ever more."""
    losses, under_way, begin = [], [], Loop.__init__
    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 100, lambda i, y: jax.numpy.tanh(y @ y), x).sum())

    def spied(self, config, step, *rest):
        def slower(state, frozen, batch):
            under_way.append(1 + sum(not loss.is_ready() for loss in losses))
            state, metrics = step(state, frozen, batch)
            metrics = metrics._replace(loss=metrics.loss + slow(jax.numpy.zeros((500, 500))))
            losses.append(metrics.loss)
            return state, metrics

        begin(self, config, slower, *rest)

    monkeypatch.setattr(Loop, "__init__", spied)
    monkeypatch.setattr("flax_sd.training.loop.count_flops", lambda *args: 1)
    assert train("a", "--train.steps", 6, "--checkpoint.every", 6).status == 0
    assert max(under_way) == 2


@pytest.mark.parametrize("cached", [True, False])
def test_a_run_keeps_nothing_of_the_steps_that_it_has_done(train, monkeypatch, cached):
    """M1: neither arrays on the device nor objects, as batches would be, also past checkpoints."""
    seen, log = {}, Trackers.log

    def look(self, step, *args):
        if step in (70, 140):  # the progress line looks back at 50 steps
            gc.collect()
            own = sum(str(type(each).__module__).startswith("flax_sd") for each in gc.get_objects())
            seen[step] = sum(array.nbytes for array in jax.live_arrays()), own
        log(self, step, *args)

    monkeypatch.setattr(Trackers, "log", look)
    flags = ["--log.every", 10, "--checkpoint.every", 15, "--checkpoint.keep", 2]
    flags += ["--data.center_crop", cached, "--train.steps", 150]
    assert train("a", *flags).status == 0
    (early, late), (fewer, more) = zip(*seen.values(), strict=True)
    assert late <= early and more <= fewer + 20, seen
