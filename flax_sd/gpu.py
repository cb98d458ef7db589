"""What a GPU says of itself."""

import re
from typing import Any


def compute_capability(device: Any) -> float | None:
    """NVIDIA's number for what a GPU can do, as 8.0; None where a device has no such number.

    AMD's GPUs name their architecture in its place (gfx90a), CPUs and TPUs have nothing.
    """
    found = str(getattr(device, "compute_capability", ""))
    return float(found) if re.fullmatch(r"\d+(\.\d+)?", found) else None
