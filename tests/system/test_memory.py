"""Sizes as people write them, the bytes of arrays, and the warning before a run."""

import io

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from flax_sd.config import OptimConfig
from flax_sd.errors import UserError
from flax_sd.system import memory
from flax_sd.system.memory import bytes_per_device, parse_size, show_size
from flax_sd.system.progress import Progress
from flax_sd.training import optim, step
from flax_sd.training.monitoring.memory import warn_if_too_large


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9),
        ("24 gb", 24 * 10**9),
        ("24GiB", 24 * 2**30),
        ("24G", 24 * 10**9),
        ("16e9", 16 * 10**9),
        ("1.5MB", 1_500_000),
        ("12KiB", 12 * 1024),
        ("100", 100),
    ],
)
def test_a_size_is_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "24XB", "-1GB", "0GB", "1,5GB", "24GBB", "much"])
def test_what_is_no_size_is_a_mistake(text):
    with pytest.raises(UserError, match="a size is written 24GB, 24GiB or 24e9"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (12, "12 B"),
        (1234, "1.2 kB"),
        (5e7, "50.0 MB"),
        (2.345e10, "23.45 GB"),
        (float("inf"), "more than there is"),
    ],
)
def test_a_size_is_shown(size, text):
    assert show_size(size) == text


def test_the_bytes_are_those_of_the_arrays_each_device_holds():
    tree = {"a": jnp.zeros((3, 4)), "b": jnp.zeros(5, jnp.bfloat16), "key": jax.random.key(0)}
    assert bytes_per_device(tree) == 3 * 4 * 4 + 5 * 2 + 8


def test_a_machine_that_does_not_tell_its_memory(tmp_path):
    assert memory.available(tmp_path / "nothing") is None
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  9 kB\nMemAvailable:   1234 kB\n")
    assert memory.available(path) == 1234 * 1024


@pytest.fixture
def arrays():
    """A state of 1000 trained numbers, and 500 frozen ones."""
    params = {"unet": {"a": jnp.zeros(1000)}}
    tx = optim.make_optimizer(OptimConfig(), 1)
    return step.init_state(params, tx, 0, scaled=False), {"vae": {"b": jnp.zeros(500)}}


@pytest.mark.parametrize(("left", "warned"), [(3999, True), (4000, False), (None, False)])
def test_the_warning_counts_a_gradient_beside_what_is_held(monkeypatch, arrays, left, warned):
    devices = jax.local_device_count()
    monkeypatch.setattr(memory, "available", lambda: left and left * devices)
    out = io.StringIO()
    assert warn_if_too_large(*arrays, Progress(Console(file=out))) == warned
    assert ("warning: weights, optimizer and gradient alone take" in out.getvalue()) == warned


def test_a_device_with_a_limit_of_its_own(monkeypatch, arrays):
    class Device:
        id, platform = 0, "gpu"

        def memory_stats(self):
            return {"bytes_limit": 18_000}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    out = io.StringIO()
    assert warn_if_too_large(*arrays, Progress(Console(file=out)))  # 18 kB and a few scalars
    assert "which has 18.0 kB" in out.getvalue()
