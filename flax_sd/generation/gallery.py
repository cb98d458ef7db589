"""The folder of a sampling run: its images, and metadata.jsonl."""

import json
import pathlib
import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from flax_sd.errors import UserError, listed
from flax_sd.files.atomic import write_atomically
from flax_sd.files.json_values import JsonObject
from flax_sd.generation import png

METADATA = "metadata.jsonl"
_OURS = re.compile(r"(\d{5,})_seed(\d+)\.png")
Records = dict[str, JsonObject]  # file name -> the image's settings


class Gallery:
    """Images with their settings, in a folder that is a data set of captioned images.

    Attributes:
      folder: the folder of the images.
      done: the records of the run's images that are there.
    """

    def __init__(self, folder: pathlib.Path, wanted: Mapping[str, JsonObject]):
        """Reads which images are there; changes nothing.

        Args:
          wanted: file name -> settings, of all images of the run.

        Raises:
          UserError: an image with other settings has the same name, or the path is not a folder.
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
            head = f"{folder} holds images of another run; choose another folder, or delete them:"
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

    def add(self, pixels: UInt8[np.ndarray, "h w 3"], record: JsonObject) -> None:
        """Writes an image.

        Raises:
          UserError: the disk is full.
        """
        png.write(self.folder / record["file_name"], pixels, record)
        self.done[record["file_name"]] = record

    def write_metadata(self) -> None:
        """Writes the lines of all images in the folder, also those of earlier runs.

        Raises:
          UserError: the disk is full.
        """
        ours = {name: json.dumps(r, ensure_ascii=False) for name, r in self.done.items()}
        lines = [line for _, line in sorted((self._others | ours).items())]
        if lines:
            write_atomically(self.folder / METADATA, "".join(f"{line}\n" for line in lines))

    def _read_others(self, wanted: Mapping[str, object]) -> dict[str, str]:
        """Returns file name -> unchanged line, of the images that are not of this run."""
        path = self.folder / METADATA
        if not path.exists():
            return {}
        try:
            lines = [line for line in path.read_text("utf-8").split("\n") if line.strip()]
            others = {json.loads(line)["file_name"]: line for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is not a list of images, and would be replaced: choose another folder"
            ) from error
        return {
            name: line
            for name, line in others.items()
            # drops a generated image that was deleted; keeps the lines of other files
            if name not in wanted and ((self.folder / name).exists() or not is_drawn(name))
        }


def is_drawn(name: str) -> bool:
    """Returns whether a file has the name of a generated image."""
    return _OURS.fullmatch(name) is not None


def seeds_of(folder: pathlib.Path) -> dict[int, int]:
    """Returns the smallest seed of each row's images in a folder, by row number."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = [(int(ours[1]), int(ours[2])) for name in names if (ours := _OURS.fullmatch(name))]
    return {row: min(seed for n, seed in found if n == row) for row in {n for n, _ in found}}


def _difference(there: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """Returns the differences between the settings of two images."""
    if not there:
        return "holds no settings of flax_sd"
    names = [key for key in {**wanted, **there} if there.get(key) != wanted.get(key)]
    return ", ".join(f"{name} is {there.get(name)!r}, not {wanted.get(name)!r}" for name in names)
