"""The config of the run that a file lies in."""

import pathlib

from flax_sd import config_file
from flax_sd.config import Config

FILE = "config.yaml"


def config_of(path: pathlib.Path) -> Config | None:
    """Of the run that the folder is, or that the file lies in; None if there is none.

    Raises:
      UserError: it is there and cannot be read.
    """
    folders = [path] if path.is_dir() else [path.parent, path.parent.parent]
    for folder in folders:
        if (folder / FILE).is_file():
            return config_file.load(folder / FILE)
    return None
