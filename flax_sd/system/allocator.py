"""The memory that commands take: glibc keeps large buffers, JAX takes most of a GPU.

A training step allocates and frees gigabytes; unless glibc keeps them, each of their pages is
faulted in again every time, which costs seconds of system time a step at the size of SD 1.5.
"""

import os
import platform
import sys

TUNABLES = {
    "mmap_threshold": 2**33,  # bytes from which a buffer is a mapping of its own, unmapped on free
    "trim_threshold": 2**33,  # bytes free at the heap's end before they go back
    "top_pad": 2**28,  # bytes by which the heap grows
    "hugetlb": 1,  # transparent huge pages
}

# The share of a GPU that JAX takes at the start; its own 0.75 leaves a quarter unused. What the
# desktop and the GPU's own libraries hold has to fit into the rest.
GPU_SHARE = "0.9"
GPU_SETTINGS = (  # JAX's own: a share in its new and its old name, or no taking at the start
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)


def environment() -> dict[str, str]:
    """Returns the environment variable that sets the tunables; glibc reads it when a process
    starts."""
    return {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{k}={v}" for k, v in TUNABLES.items())}


def restart_with_tunables() -> None:
    """Restarts this process, once, with the tunables set.

    Commands call it first thing, before they import anything large; importing flax_sd never does.
    Nothing happens where there is no glibc or the user has set tunables of their own.
    """
    if "GLIBC_TUNABLES" in os.environ or platform.libc_ver()[0] != "glibc":
        return
    os.environ.update(environment())
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def take_gpu_memory() -> None:
    """Sets the share of a GPU that JAX takes, unless the user has set it.

    It must be called before JAX looks for devices.
    """
    if not any(name in os.environ for name in GPU_SETTINGS):
        os.environ[GPU_SETTINGS[0]] = GPU_SHARE
