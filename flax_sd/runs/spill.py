"""Says once when arrays outgrow a GPU's memory and go on in the machine's, which is far slower.

JAX's allocator does that only with unified memory, where XLA_CLIENT_MEM_FRACTION is above 1;
otherwise a run ends for want of memory.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax

from flax_sd.allocator import GPU_SETTINGS
from flax_sd.progress import Progress
from flax_sd.runs.plan_memory import show_size


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
