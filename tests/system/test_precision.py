"""Which dtype "auto" is, by made-up devices."""

from types import SimpleNamespace

import jax
import pytest

from flax_sd.system.precision import resolve_dtype


@pytest.mark.parametrize(
    ("platform", "capability", "expected"),
    [
        ("cpu", None, "float32"),
        ("gpu", "7.5", "float16"),  # T4
        ("gpu", "8.0", "bfloat16"),
        ("gpu", "12.0", "bfloat16"),
        ("gpu", "gfx90a", "bfloat16"),
        ("tpu", None, "bfloat16"),
    ],
)
def test_auto_is_what_the_device_does_well(monkeypatch, platform, capability, expected):
    device = SimpleNamespace(platform=platform)
    if capability:
        device.compute_capability = capability
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert resolve_dtype("auto") == expected
    assert resolve_dtype("float32") == "float32"
