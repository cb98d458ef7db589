"""Whether a run that resumes finds what it began with; for pictures, by pictures.jsonl."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from flax_sd.data import Pictures
from flax_sd.errors import UserError, listed, some
from flax_sd.files.atomic import write_atomically
from flax_sd.files.text import read_objects
from flax_sd.run_folder import saved_config
from flax_sd.run_folder.layout import PICTURES


def differences(then: Mapping[str, Any], now: Mapping[str, Any], changed: str) -> list[str]:
    """What is gone, new, or `changed`: a sentence for each of these that there is."""
    kinds = {
        "gone": then.keys() - now.keys(),
        "new": now.keys() - then.keys(),
        changed: {name for name in then.keys() & now.keys() if then[name] != now[name]},
    }
    return [f"{kind}: {some(sorted(names))}" for kind, names in kinds.items() if names]


def check(folder: pathlib.Path, pictures: Pictures) -> None:
    """Holds the pictures of a run that has a checkpoint against those that it began with.

    Others would make another run of it: which steps show what depends on all of them.

    Raises:
      UserError: some are gone, new or other ones.
    """
    lines = read_objects(folder / PICTURES)
    then = {line["file"]: line["hash"] for line in lines if {"file", "hash"} <= line.keys()}
    now = pictures.digests()
    # Names alone change where a folder is moved; which step shows what follows from the order.
    if (
        not then
        or list(then.values()) == list(now.values())
        or not saved_config.has_checkpoint(folder)
    ):
        return
    others = differences(then, now, "of another content, caption or mask")
    others = others or ["the same ones in another order"]
    others += [f"left out now: {name}, {reason}" for name, reason in pictures.bad if name in then]
    head = (
        f"{pictures.cfg.path} holds other pictures than those that {folder} was trained on so far; "
        "put them back as they were, and the same command goes on, or begin a new run "
        "(lora.start takes the LoRA of this one along):"
    )
    raise UserError(listed(head, others))


def write(folder: pathlib.Path, pictures: Pictures) -> None:
    """Notes what a run trains on: `file`, and `hash` of content, captions and mask.

    Raises:
      UserError: it cannot be written.
    """
    if jax.process_index() == 0:
        rows = ({"file": name, "hash": digest} for name, digest in pictures.digests().items())
        write_atomically(folder / PICTURES, "".join(json.dumps(row) + "\n" for row in rows))
