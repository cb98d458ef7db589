"""Compiled programs kept on disk, so that the second start of a command need not compile."""

import os
import pathlib

import jax

VARIABLE = "JAX_COMPILATION_CACHE_DIR"  # JAX's own; empty turns the cache off
MAX_BYTES = 8 * 2**30  # a step at the size of SD 1.5 takes 0.1 GiB on a CPU; the oldest go first


def enable() -> None:
    """Keeps compiled programs in the user's cache folder, unless they said where or not to.

    What lies there is run without being checked, so nobody else may write to it.
    """
    if VARIABLE in os.environ:
        return
    base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = base / "flax_sd" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError:
        return  # a home that cannot be written to: compile as without a cache
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
