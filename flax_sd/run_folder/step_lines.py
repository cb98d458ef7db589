"""Files of one JSON object a line, each of a step, that a run adds to as it goes."""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from flax_sd.errors import UserError
from flax_sd.files.atomic import atomic_file, explain_write_errors, flush_to_disk


class StepLines:
    """Such a file: whole lines only, which a run that resumes drops past its checkpoint."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line at once; what is not finite becomes null, which JSON can hold.

        Args:
          record: numbers, words and lists of them; "step" is among them.

        Raises:
          UserError: the line cannot be written.
        """
        line = json.dumps({name: _plain(value) for name, value in record.items()}) + "\n"
        with explain_write_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def read(self, last: int) -> Iterator[dict[str, Any]]:
        """The whole lines up to step `last`; none if the file is not there.

        Raises:
          UserError: the file cannot be read.
        """
        for line in self._text():
            if _step_of(line) <= last:
                yield json.loads(line)

    def truncate_after(self, step: int) -> None:
        """Drops the lines past a step, and one that a kill tore, in a file renamed into place.

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
    """What JSON holds of it."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    number = float(value)
    return number if math.isfinite(number) else None


def _step_of(line: str) -> float:
    """The step of a line; infinity if the line is torn."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf
