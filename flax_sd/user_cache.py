"""The folder in which commands keep what they can make again."""

import os
import pathlib


def user_cache() -> pathlib.Path:
    """$XDG_CACHE_HOME/flax_sd, or ~/.cache/flax_sd; it may not be there yet."""
    base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return base / "flax_sd"
