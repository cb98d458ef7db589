"""Which files are of a set's train split, by their names as `datasets` reads them."""

import pathlib
import re
import shlex
from collections.abc import Iterable, Mapping

from flax_sd.errors import shown

# SPLIT_KEYWORDS and NON_WORDS_CHARS of datasets' data_files.py.
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
APART = re.compile(r"[-._ 0-9]+")


def split_of_folder(name: str) -> str | None:
    """Returns the split that a folder's whole name stands for: train, Val, test."""
    return SPLIT_OF.get(name.lower())


def split_of_file(path: pathlib.PurePath) -> str | None:
    """Returns the split of a table or an archive, by a word in its path.

    Args:
      path: below the folder that holds the set.
    """
    parts = [*path.parts[:-1], path.stem]
    words = (word for part in parts for word in APART.split(part.lower()))
    return next((SPLIT_OF[word] for word in words if word in SPLIT_OF), None)


def are_divided(splits: Iterable[str | None]) -> bool:
    """Tells whether some are not trained on, since a train split is beside others."""
    found = set(splits)
    return "train" in found and len(found - {None}) > 1


def not_trained_on(split: str | None, held_out: pathlib.PurePath | str | None) -> str:
    """Returns why a file or folder is not trained on, and how to train on it.

    Args:
      held_out: what data.held_out has to be to measure a loss on it, if one path is enough.
    """
    if split is None:
        return "of no split by its name, where others are: not trained on; move it into train"
    path = "a folder of its own" if held_out is None else shlex.quote(shown(held_out))
    return f"the {split} split: not trained on; --data.held_out {path} evaluates the loss on it"


def alone(files: Mapping[pathlib.Path, str | None], file: pathlib.Path) -> pathlib.Path | None:
    """Returns the path that names a file's whole split and nothing else, if there is one."""
    own = {path for path, split in files.items() if split == files[file]}
    if len(own) == 1:
        return file
    holders = set.intersection(*(set(path.parents) for path in own))
    holder = max(holders, key=lambda path: len(path.parts))
    return None if any(holder in path.parents for path in files.keys() - own) else holder
