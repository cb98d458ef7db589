"""The memory of a run: what it needs at least, what it has taken, and where it spills over."""

import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax

from flax_sd.config import Config
from flax_sd.system.allocator import GPU_SETTINGS
from flax_sd.system.memory import bytes_per_device, device_memory, show_size
from flax_sd.system.progress import Progress

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows has none
    resource = None

GB = 1e9  # bytes


def warn_if_too_large(state: Any, frozen: Any, progress: Progress) -> bool:
    """Says so, and returns True, if a step cannot fit whatever its activations take.

    The bound is the weights, the optimizer's state and one gradient; nothing is compiled.

    Args:
      state: a TrainState of arrays that are on their devices.
      frozen: the frozen leaves, likewise.
    """
    device = min(jax.local_devices(), key=lambda device: device.id)
    limit = device_memory(device)
    if limit is None:
        return False
    held = bytes_per_device((state, frozen))
    if device.platform == "cpu":
        limit += held  # what is available to a CPU does not count what is taken already
    needed = held + bytes_per_device(state.params)
    if needed <= limit:
        return False
    progress.say(
        f"warning: weights, optimizer and gradient alone take {show_size(needed)} on each device, "
        f"which has {show_size(limit)}: this run will most likely end for want of memory; "
        "flax-sd plan says what would fit"
    )
    return True


def advice(config: Config, devices: int, largest: int) -> list[str]:
    """Flags that would make a run smaller, among those that are not set already.

    Args:
      devices: of the mesh.
      largest: the largest batch that fits, 0 if none does.
    """
    train, side = config.train, config.data.resolution
    lines = []
    if largest:
        lines.append(f"--train.batch_size {largest}")
        if parts := _parts(train.batch_size, devices, largest // train.accumulate):
            lines.append(f"--train.accumulate {parts}: the same batch in {parts} parts")
    if config.mode.denoises and train.remat == "none":
        lines.append("--train.remat blocks: activations are computed again; slower")
    encodes = train.mode not in ("vae", "ddpm") and not config.data.stream
    if encodes and not (config.data.center_crop and config.data.encode_once):
        lines.append("--data.center_crop true: the VAE leaves once all pictures are encoded")
    if config.compute_dtype == "float32":
        lines.append("--compute_dtype bfloat16")
    if config.mode.adapters and config.model.base_dtype == "compute":
        lines.append("--model.base_dtype int8: the frozen kernels take a byte a number")
    if devices > 1 and config.mesh.fsdp < devices:
        lines.append(f"--mesh.fsdp {devices}: the frozen weights are divided over the devices")
    if smaller := side * 3 // 4 // 64 * 64:
        lines.append(f"--data.resolution {smaller}: smaller pictures (now {side})")
    return lines


def _parts(batch: int, devices: int, most: int) -> int | None:
    """The fewest equal parts of a batch with at most `most` pictures each, if there are such."""
    for parts in range(2, batch + 1):
        size = batch // parts
        if batch % parts == 0 and size <= most and size % devices == 0:
            return parts
    return None


class SpillWatch:
    """Looks at this process's devices until it has had something to say."""

    def __init__(self, progress: Progress):
        self._progress, self._said = progress, False

    def look(self) -> None:
        """Warns if a device's memory was exceeded at any time before, and has not warned yet."""
        if self._said:
            return
        for device in jax.local_devices():
            if beyond := spilled(device, os.environ):
                self._said = True
                self._progress.say(
                    f"warning: {show_size(beyond)} more than device {device.id} has were in use "
                    "and went to the machine's memory, so steps take far longer than they need: a "
                    "smaller train.batch_size or train.remat blocks takes less"
                )
                return


def spilled(device: Any, environ: Mapping[str, str]) -> float:
    """Bytes in use at the peak beyond the device's own memory; 0 where nothing can spill."""
    if device.platform != "gpu":
        return 0.0
    fraction = max(float(environ.get(name) or 0) for name in GPU_SETTINGS[:2])
    if fraction <= 1:
        return 0.0
    stats = device.memory_stats() or {}
    return max(0.0, stats.get("peak_bytes_in_use", 0) - stats.get("bytes_limit", 0) / fraction)


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
