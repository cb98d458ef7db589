"""How much memory a run has taken, of its devices and of the machine."""

import sys
from types import ModuleType
from typing import Any

import jax

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows has none
    resource = None

GB = 1e9  # bytes


def memory() -> dict[str, float]:
    """device_gb, the peak of the fullest device, and host_gb, that of this process, in 10⁹ bytes.

    Devices that do not count their memory, as CPUs, leave the first out; systems that do not say,
    the second.
    """
    values = {}
    peaks = [peak for device in jax.local_devices() if (peak := device_peak(device)) is not None]
    if peaks:
        values["device_gb"] = max(peaks) / GB
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2) of each
        values["host_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB
    return values


def device_peak(device: Any) -> int | None:
    """Bytes that were in use at once at the most; None where the device does not count them."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")
