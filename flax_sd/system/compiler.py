"""XLA's compiler: its options, its cached programs on disk, and its memory."""

import ctypes
import functools
import importlib.util
import os
import platform
import pwd
from typing import Any

import jax

from flax_sd.files.user_cache import user_cache

VARIABLE = "JAX_COMPILATION_CACHE_DIR"  # JAX's own; empty turns the cache off
MAX_BYTES = 8 * 2**30  # a step at the size of SD 1.5 takes 3 MB on a CPU; the oldest go first
DETERMINISTIC = "--xla_gpu_deterministic_ops"
MIN_SECONDS = 1.0  # seconds of compiling that leave memory worth giving back
# Seconds of compiling from which a program is kept; JAX keeps those of a second. A start compiles
# eighty smaller ones, which take three seconds together.
MIN_KEPT_SECONDS = 0.02
# LLVM's level: a step compiles in four fifths of the time of XLA's own level and runs as fast.
LEVEL: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}
# A step's temporaries at the size of SD 1.5 take 1.8 GiB in place of 2.5, in the same time. One
# operation runs after another then; where each is too small for all cores, side by side is faster.
SCHEDULER: dict[str, str | bool] = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


@functools.cache
def compiler_options(large: bool) -> dict[str, str | bool] | None:
    """Returns the options for the default devices; None if this version of XLA does not know
    them.

    What the user has chosen, by XLA_FLAGS or JAX_DISABLE_MOST_OPTIMIZATIONS, stays.
    """
    if jax.default_backend() != "cpu":
        return None
    chosen = os.environ.get("XLA_FLAGS", "")
    if jax.config.values["jax_disable_most_optimizations"]:
        chosen += " ".join(LEVEL)
    options = LEVEL | (SCHEDULER if large else {})
    options = {name: value for name, value in options.items() if name not in chosen}
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        return None
    return options


def ask_for_determinism() -> None:
    """Tells XLA to use only operations that give the same bytes each time on a GPU.

    It must be called before JAX looks for devices. On a CPU the flag is known and has no effect; a
    TPU's compiler, which is always deterministic, may stop at flags that it does not know.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    on_tpu = importlib.util.find_spec("libtpu") is not None
    if DETERMINISTIC not in flags and not on_tpu:  # the user may have said otherwise
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}=true".strip()


def set_up() -> None:
    """Keeps compiled programs on disk and frees the compiler's memory.

    Every command calls it, and so does loading a model from Python.
    """
    _keep_programs()
    _give_memory_back()


def _keep_programs() -> None:
    """Uses the user's cache folder for compiled programs, unless JAX's cache is configured.

    What lies there is run without being checked, so no other user may write to it.
    """
    configured = VARIABLE in os.environ or jax.config.values["jax_compilation_cache_dir"]
    if configured or not _has_name():
        return
    folder = user_cache() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError:
        return  # a home that cannot be written to: compile as without a cache
    jax.config.update("jax_compilation_cache_dir", str(folder))
    limits = {
        "jax_compilation_cache_max_size": MAX_BYTES,
        "jax_persistent_cache_min_compile_time_secs": MIN_KEPT_SECONDS,
    }
    for name, value in limits.items():
        if name.upper() not in os.environ:  # the user's own stays
            jax.config.update(name, value)


def _has_name() -> bool:
    """Tells whether this user has a name: JAX asks for the owner of each file of a bounded
    cache."""
    try:
        return bool(pwd.getpwuid(os.getuid()))
    except KeyError:
        return False


@functools.cache  # JAX keeps every listener: one is enough, however many commands a process runs
def _give_memory_back() -> None:
    """Returns freed memory to the system after each long compilation, as glibc keeps it.

    Compiling the step of SD 1.5 leaves more than a gigabyte free inside the process, in pieces that
    the step's large buffers do not fit into.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim = ctypes.CDLL(None).malloc_trim

    def compiled(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and duration_secs > MIN_SECONDS:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(compiled)
