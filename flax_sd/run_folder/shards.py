"""shards.jsonl: the shards that a run streams.

The file has a line for each shard when the run begins (`shard, size`), and one more when it was
opened (`images, steps, hash, left_out`). So a resumed run finds its place without opening earlier
shards, and notices if one has changed.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import jax

from flax_sd import data
from flax_sd.errors import UserError
from flax_sd.files.atomic import explain_write_errors, write_atomically
from flax_sd.files.text import read_objects
from flax_sd.run_folder.layout import QUARANTINE, SHARDS, quarantined
from flax_sd.run_folder.pictures import differences
from flax_sd.system.progress import Progress


class Ledger:
    """Records shards; a `data.stream.Ledger`."""

    def __init__(
        self, folder: pathlib.Path, shards: Sequence[data.Shard], first: str, progress: Progress
    ):
        """Reads the file; `first` is the shard that the check before the run reports.

        Raises:
          UserError: the shards are not those that the run began with.
        """
        self._folder, self._first, self._progress = folder, first, progress
        lines = [line for line in read_objects(folder / SHARDS) if "shard" in line]
        self._known = {line["shard"]: line for line in lines if "steps" in line}
        listed = {line["shard"]: line["size"] for line in lines if "size" in line}
        now = {shard.name: shard.size for shard in shards}
        if listed and (others := differences(listed, now, "changed size")):
            raise UserError(
                f"the shards are not those that this run began with ({'; '.join(others)}): restore "
                "them and run the same command again to resume, or begin a new run"
            )
        self._listed = [{"shard": name, "size": size} for name, size in now.items()]

    def begin(self) -> None:
        """Writes the known lines when a run begins or resumes.

        Raises:
          UserError: it cannot be written.
        """
        if jax.process_index() == 0:
            write_atomically(self._folder / SHARDS, _text([*self._listed, *self._known.values()]))
        for name, line in self._known.items():
            if name != self._first:
                self._append(QUARANTINE, quarantined(name, line["left_out"]))

    def get(self, shard: data.Shard) -> data.Counted | None:
        """Returns the recorded steps and hash of a shard; None if it was not opened yet."""
        line = self._known.get(shard.name)
        return None if line is None else data.Counted(line["steps"], line["hash"])

    def note(self, shard: data.Shard, images: data.Images, counted: data.Counted) -> None:
        """Records an opened shard, and reports what was left out of it.

        Raises:
          UserError: it cannot be written.
        """
        found = {"pictures": len(images), "steps": counted.steps, "hash": counted.fingerprint}
        line = {"shard": shard.name, **found, "left_out": images.bad}
        self._known[shard.name] = line
        self._append(SHARDS, [line])
        if images.bad and shard.name != self._first:
            self._append(QUARANTINE, quarantined(shard.name, images.bad))
            self._progress.say(
                f"{shard.name}: {len(images)} images, {len(images.bad)} left out "
                f"({self._folder / QUARANTINE})"
            )

    def _append(self, file: str, lines: Iterable[Mapping[str, object]]) -> None:
        if jax.process_index() != 0:
            return
        path = self._folder / file
        with explain_write_errors(path), path.open("a", encoding="utf-8") as opened:
            opened.write(_text(lines))


def _text(lines: Iterable[Mapping[str, object]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)
