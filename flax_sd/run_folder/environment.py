"""environment.json: what each start of a run was made with."""

import json
import pathlib
from typing import Any

import jax

from flax_sd.files.atomic import write_atomically
from flax_sd.run_folder.layout import ENVIRONMENT


def record(folder: pathlib.Path, step: int, found: dict[str, Any]) -> None:
    """Notes what a run goes on with from `step`, and forgets what it did after that before.

    Raises:
      UserError: it cannot be written.
    """
    before = read(folder)
    kept = [entry for entry in before if entry["step"] < step]
    known = kept[-1] if kept else {}
    if {**known, "step": 0} != {**found, "step": 0}:
        kept.append({"step": step, **found})
    if jax.process_index() == 0 and kept != before:
        write_atomically(
            folder / ENVIRONMENT, json.dumps(kept, indent=1, ensure_ascii=False) + "\n"
        )


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """What was noted of a run; nothing where there is no such file, or it is damaged."""
    try:
        entries = json.loads((folder / ENVIRONMENT).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    listed = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    return entries if listed and all(isinstance(e.get("step"), int) for e in entries) else []
