"""environment.json: versions, devices and hashes at each start of a run."""

import json
import pathlib

import jax

from flax_sd.files.atomic import write_atomically
from flax_sd.files.json_values import JsonObject
from flax_sd.run_folder.layout import ENVIRONMENT


def record(folder: pathlib.Path, step: int, found: JsonObject) -> None:
    """Writes the environment of a run from `step` on; drops entries of later steps.

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


def read(folder: pathlib.Path) -> list[JsonObject]:
    """Reads the entries of a run; none if the file is missing or damaged."""
    try:
        entries = json.loads((folder / ENVIRONMENT).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    listed = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    return entries if listed and all(isinstance(e.get("step"), int) for e in entries) else []
