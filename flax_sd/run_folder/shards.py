"""What a run knows of the shards that it streams, from one start to the next: shards.jsonl.

A line for each shard when the run begins (`shard, size`), and one more when it was opened
(`pictures, steps, hash, left_out`), so that a run that resumes finds its place without opening
those before it, and sees that none has become another.
"""

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from flax_sd import data
from flax_sd.errors import UserError
from flax_sd.files.atomic import explain_write_errors, write_atomically
from flax_sd.files.text import read_objects
from flax_sd.run_folder.layout import QUARANTINE, SHARDS, quarantined
from flax_sd.run_folder.pictures import differences
from flax_sd.system.progress import Progress


class Ledger:
    """Remembers shards; a `data.stream.Ledger`."""

    def __init__(
        self, folder: pathlib.Path, shards: Sequence[data.Shard], first: str, progress: Progress
    ):
        """Reads what is known; `first` is the shard that the check before the run reports on.

        Raises:
          UserError: the shards are not those that the run began with.
        """
        self._folder, self._first, self._progress = folder, first, progress
        lines = [line for line in read_objects(folder / SHARDS) if "shard" in line]
        self._known = {line["shard"]: line for line in lines if "steps" in line}
        listed = {line["shard"]: line["size"] for line in lines if "size" in line}
        now = {shard.name: shard.size for shard in shards}
        if listed and (others := differences(listed, now, "of another size")):
            raise UserError(
                f"the shards are not those that this run began with ({'; '.join(others)}): put "
                "them back as they were, and the same command goes on, or begin a new run"
            )
        self._listed = [{"shard": name, "size": size} for name, size in now.items()]

    def begin(self) -> None:
        """Writes what is known when a run begins or resumes.

        Raises:
          UserError: it cannot be written.
        """
        if jax.process_index() == 0:
            write_atomically(self._folder / SHARDS, _text([*self._listed, *self._known.values()]))
        for name, line in self._known.items():
            if name != self._first:
                self._append(QUARANTINE, quarantined(name, line["left_out"]))

    def get(self, shard: data.Shard) -> data.Counted | None:
        """What is known of a shard."""
        line = self._known.get(shard.name)
        return None if line is None else data.Counted(line["steps"], line["hash"])

    def note(self, shard: data.Shard, pictures: data.Pictures, counted: data.Counted) -> None:
        """Takes down what was found in a shard, and says what was left out of it.

        Raises:
          UserError: it cannot be written.
        """
        found = {"pictures": len(pictures), "steps": counted.steps, "hash": counted.fingerprint}
        line = {"shard": shard.name, **found, "left_out": pictures.bad}
        self._known[shard.name] = line
        self._append(SHARDS, [line])
        if pictures.bad and shard.name != self._first:
            self._append(QUARANTINE, quarantined(shard.name, pictures.bad))
            self._progress.say(
                f"{shard.name}: {len(pictures)} pictures, {len(pictures.bad)} left out "
                f"({self._folder / QUARANTINE})"
            )

    def _append(self, file: str, lines: Iterable[dict[str, Any]]) -> None:
        if jax.process_index() != 0:
            return
        path = self._folder / file
        with explain_write_errors(path), path.open("a", encoding="utf-8") as opened:
            opened.write(_text(lines))


def _text(lines: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)
