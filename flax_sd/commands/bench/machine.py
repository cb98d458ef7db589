"""What figures were measured on: the processor, the memory, the GPUs and the versions."""

import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import subprocess

PACKAGES = ("jax", "flax", "libtpu", "torch", "diffusers")
QUIET = 0.3  # programs that run at once, on average, beside which figures can be trusted


def machine() -> str:
    """Returns the processor's name, its cores and the memory; the GPUs."""
    path = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", path.read_text() if path.is_file() else "", re.M)
    name = found[1] if found else platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return ", ".join([name, f"{os.cpu_count()} cores", f"{memory:.0f} GiB", *_gpus()])


def load() -> str:
    """Returns how busy other programs keep the machine, as "load 1.5"; "" if they hardly do."""
    average = os.getloadavg()[0]
    return f"load {average:.1f}" if average > QUIET else ""


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that are installed."""
    found = {name: version for name in PACKAGES if (version := _version(name))}
    return {"Python": platform.python_version(), **found}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    """Returns the names of NVIDIA's GPUs."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
