"""The folder of a sampling run: which pictures are there, and metadata.jsonl beside them."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from flax_sd.errors import UserError, listed
from flax_sd.files.atomic import write_atomically
from flax_sd.generation import png

METADATA = "metadata.jsonl"
_OURS = re.compile(r"(\d{5,})_seed(\d+)\.png")
Records = dict[str, dict[str, Any]]  # file name -> the picture's settings


class Gallery:
    """Pictures with their settings, as a folder that is a data set of captioned pictures.

    Attributes:
      folder: where they lie.
      done: the wanted pictures that are there.
    """

    def __init__(self, folder: pathlib.Path, wanted: Mapping[str, dict[str, Any]]):
        """Looks at what is there; changes nothing.

        Args:
          wanted: file name -> settings, of all pictures of the run.

        Raises:
          UserError: a wanted name is taken by a picture with other settings, or the folder holds
            something else.
        """
        self.folder, self.done = folder, {}
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file: name a folder")
        self._others = self._read_others(wanted)
        problems = []
        for name, record in wanted.items():
            there = png.read_record(folder / name)
            if there == record:
                self.done[name] = record
            elif there is not None:
                problems.append(f"{name}: {_difference(there, record)}")
        if problems:
            head = f"{folder} holds pictures of another run; choose another folder, or delete them:"
            raise UserError(listed(head, problems))

    def make(self) -> None:
        """Makes the folder.

        Raises:
          UserError: it cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be made: {error.strerror}") from error

    def add(self, pixels: Any, record: dict[str, Any]) -> None:
        """Writes a picture.

        Raises:
          UserError: the disk is full.
        """
        png.write(self.folder / record["file_name"], pixels, record)
        self.done[record["file_name"]] = record

    def write_metadata(self) -> None:
        """Writes the lines of all pictures in the folder, those of earlier runs too.

        Raises:
          UserError: the disk is full.
        """
        ours = {name: json.dumps(r, ensure_ascii=False) for name, r in self.done.items()}
        lines = [line for _, line in sorted((self._others | ours).items())]
        if lines:
            write_atomically(self.folder / METADATA, "".join(f"{line}\n" for line in lines))

    def _read_others(self, wanted: Mapping[str, Any]) -> dict[str, str]:
        """file name -> its line as it stands, of what this run does not draw."""
        path = self.folder / METADATA
        if not path.exists():
            return {}
        try:
            lines = [line for line in path.read_text("utf-8").split("\n") if line.strip()]
            others = {json.loads(line)["file_name"]: line for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is not a list of pictures, and would be replaced: choose another folder"
            ) from error
        return {
            name: line
            for name, line in others.items()
            # a line of ours whose picture was deleted goes; other people's lines stay
            if name not in wanted and ((self.folder / name).exists() or not is_drawn(name))
        }


def is_drawn(name: str) -> bool:
    """Whether a file's name is such as these pictures have."""
    return _OURS.fullmatch(name) is not None


def seeds_of(folder: pathlib.Path) -> dict[int, int]:
    """The least seed of each row's pictures in a folder, by the rows' numbers."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = [(int(ours[1]), int(ours[2])) for name in names if (ours := _OURS.fullmatch(name))]
    return {row: min(seed for n, seed in found if n == row) for row in {n for n, _ in found}}


def _difference(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What tells two pictures' settings apart."""
    if not there:
        return "holds no settings of flax_sd"
    names = [key for key in {**wanted, **there} if there.get(key) != wanted.get(key)]
    return ", ".join(f"{name} is {there.get(name)!r}, not {wanted.get(name)!r}" for name in names)
