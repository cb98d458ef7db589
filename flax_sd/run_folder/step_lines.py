"""Files of a run with one JSON object a line, each for a step."""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from flax_sd.errors import UserError
from flax_sd.files.atomic import atomic_file, explain_write_errors, flush_to_disk
from flax_sd.files.json_values import JsonObject


class StepLines:
    """A file of complete lines; a resumed run drops those after its checkpoint."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, object]) -> None:
        """Writes one line at once; numbers that are not finite become null, since JSON has none.

        Args:
          record: numbers, text and lists of them, with a "step".

        Raises:
          UserError: the line cannot be written.
        """
        line = json.dumps({name: _plain(value) for name, value in record.items()}) + "\n"
        with explain_write_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def read(self, last: int) -> Iterator[JsonObject]:
        """Yields the complete lines up to step `last`; none if there is no file.

        Raises:
          UserError: the file cannot be read.
        """
        for line in self._text():
            if _step_of(line) <= last:
                yield json.loads(line)

    def truncate_after(self, step: int) -> None:
        """Drops the lines after a step, and an incomplete one, in a file renamed into place.

        Raises:
          UserError: the file cannot be read or written.
        """
        if not self.path.exists():
            return
        lines = self._text()
        with atomic_file(self.path) as file:
            file.writelines(f"{line}\n".encode() for line in lines if _step_of(line) <= step)
            flush_to_disk(file)

    def _text(self) -> list[str]:
        try:
            return self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error


def _plain(value: Any) -> Any:
    """Returns a value that JSON can hold."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    number = float(value)
    return number if math.isfinite(number) else None


def _step_of(line: str) -> float:
    """Returns the step of a line; infinity if the line is incomplete."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf
