"""How long a kind of work took last time on this machine, kept in the user's cache folder."""

import json
import pathlib

from flax_sd.errors import UserError
from flax_sd.files.atomic import write_atomically
from flax_sd.files.text import read_text
from flax_sd.files.user_cache import user_cache

FILE = "durations.json"  # seconds by the name of the work
MIN_SECONDS = 5.0  # shorter waits are not worth a word; a compiled program found on disk is one
MAX_NAMES = 1000  # the oldest go first


def last_seconds(name: str) -> float | None:
    """Returns the seconds of the last time; None if it is not known."""
    value = _read(_path()).get(name)
    return value if isinstance(value, float | int) else None


def keep_seconds(name: str, seconds: float) -> None:
    """Keeps the seconds for the next time, if they are worth it and the folder can be written."""
    if seconds < MIN_SECONDS:
        return
    path = _path()
    known = _read(path)
    known.pop(name, None)
    latest = [*known.items(), (name, round(seconds, 1))][-MAX_NAMES:]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(dict(latest), indent=1))
    except (OSError, UserError):
        pass  # it is only a help


def _path() -> pathlib.Path:
    return user_cache() / FILE


def _read(path: pathlib.Path) -> dict[str, object]:
    """Returns what is known; nothing if the file is missing or is no such file."""
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError, UserError):
        return {}
    return found if isinstance(found, dict) else {}
