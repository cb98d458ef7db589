"""Keeps glibc from giving large buffers back after each use.

A training step allocates and frees gigabytes; without this each of their pages is faulted in again
every time, which costs seconds of system time a step at the size of SD 1.5.
"""

import os
import platform
import sys

TUNABLES = {
    "arena_max": 1,  # the heaps of further arenas hold 64 MiB; all above becomes a mapping
    "mmap_threshold": 2**33,  # bytes from which a buffer is a mapping of its own, unmapped on free
    "trim_threshold": 2**33,  # bytes free at the heap's end before they go back
    "top_pad": 2**28,  # bytes by which the heap grows
    "hugetlb": 1,  # transparent huge pages
}


def environment() -> dict[str, str]:
    """The environment variable that sets the tunables; glibc reads it when a process starts."""
    return {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{k}={v}" for k, v in TUNABLES.items())}


def restart_with_tunables() -> None:
    """Starts this process again, once, with the tunables set.

    Commands call it first thing, before they import anything large; importing flax_sd never does.
    Nothing happens where there is no glibc or the user has set tunables of their own.
    """
    if "GLIBC_TUNABLES" in os.environ or platform.libc_ver()[0] != "glibc":
        return
    os.environ.update(environment())
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
