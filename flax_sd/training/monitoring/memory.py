"""The memory of a run: its lower bound, its use, and spills into host memory."""

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
from flax_sd.training.losses import Trees
from flax_sd.training.step import TrainState

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows has none
    resource = None

GB = 1e9  # bytes


def warn_if_too_large(state: TrainState, frozen: Trees, progress: Progress) -> bool:
    """Warns, and returns True, if a step cannot fit even without activations.

    The lower bound is weights, optimizer state and one gradient; nothing is compiled.

    Args:
      state: the train state, on its devices.
      frozen: the frozen leaves, on their devices.
    """
    device = min(jax.local_devices(), key=lambda device: device.id)
    limit = device_memory(device)
    if limit is None:
        return False
    held = bytes_per_device((state, frozen))
    if device.platform == "cpu":
        limit += held  # a CPU's available memory excludes what is in use
    needed = held + bytes_per_device(state.params)
    if needed <= limit:
        return False
    progress.say(
        f"warning: weights, optimizer and gradient alone take {show_size(needed)} on each device, "
        f"which has {show_size(limit)}: this run will most likely run out of memory; "
        "flax-sd plan shows what fits"
    )
    return True


def advice(config: Config, devices: int, largest: int) -> list[str]:
    """Returns flags that reduce the memory of a run, without those that are set already.

    Args:
      devices: number of devices in the mesh.
      largest: the largest batch that fits, 0 if none does.
    """
    train, side = config.train, config.data.resolution
    lines = []
    if largest:
        lines.append(f"--train.batch_size {largest}")
        if parts := _parts(train.batch_size, devices, largest // train.accumulate):
            lines.append(f"--train.accumulate {parts}: the same batch in {parts} parts")
    if config.mode.denoises and train.remat == "none":
        lines.append("--train.remat blocks: computes activations again; slower")
    encodes = train.mode not in ("vae", "ddpm") and not config.data.stream
    if encodes and not (config.data.center_crop and config.data.encode_once):
        lines.append("--data.center_crop true: frees the VAE when all images are encoded")
    if config.compute_dtype == "float32":
        lines.append("--compute_dtype bfloat16")
    if config.mode.adapters and config.model.base_dtype == "compute":
        lines.append("--model.base_dtype int8: the frozen kernels take a byte a number")
    if devices > 1 and config.mesh.fsdp < devices:
        lines.append(f"--mesh.fsdp {devices}: the frozen weights are divided over the devices")
    if smaller := side * 3 // 4 // 64 * 64:
        lines.append(f"--data.resolution {smaller}: smaller images (now {side})")
    return lines


def _parts(batch: int, devices: int, largest: int) -> int | None:
    """Returns the fewest equal parts of a batch with at most `largest` images each, if any."""
    for parts in range(2, batch + 1):
        size = batch // parts
        if batch % parts == 0 and size <= largest and size % devices == 0:
            return parts
    return None


class SpillWatch:
    """Warns once when a GPU's allocations spill into host memory."""

    def __init__(self, progress: Progress):
        self._progress, self._warned = progress, False

    def look(self) -> None:
        """Warns if the memory of one of this process's devices was ever exceeded."""
        if self._warned:
            return
        for device in jax.local_devices():
            if beyond := spilled(device, os.environ):
                self._warned = True
                self._progress.say(
                    f"warning: the run used {show_size(beyond)} more than the memory of device "
                    f"{device.id}; that part is in host memory, so steps are much slower: a "
                    "smaller train.batch_size or train.remat blocks needs less"
                )
                return


def spilled(device: Any, environ: Mapping[str, str]) -> float:
    """Returns the peak of bytes beyond the device's own memory; 0 if nothing can spill."""
    if device.platform != "gpu":
        return 0.0
    fraction = max(float(environ.get(name) or 0) for name in GPU_SETTINGS[:2])
    if fraction <= 1:
        return 0.0
    stats = device.memory_stats() or {}
    return max(0.0, stats.get("peak_bytes_in_use", 0) - stats.get("bytes_limit", 0) / fraction)


def memory() -> dict[str, float]:
    """Returns device_gb, the peak of the fullest device, and host_gb, that of this process.

    Both are in 10⁹ bytes. The first is missing for devices that do not count their memory, such as
    CPUs; the second on systems that do not report it.
    """
    values = {}
    peaks = [peak for device in jax.local_devices() if (peak := device_peak(device)) is not None]
    if peaks:
        values["device_gb"] = max(peaks) / GB
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes elsewhere
        values["host_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB
    return values


def device_peak(device: Any) -> int | None:
    """Returns the peak of bytes in use; None if the device does not count them."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")
