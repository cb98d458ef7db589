"""pictures.jsonl: the images of a run, so that a resumed run has the same ones."""

import json
import pathlib
from collections.abc import Mapping

import jax

from flax_sd.data import Images
from flax_sd.errors import UserError, listed, some
from flax_sd.files.atomic import write_atomically
from flax_sd.files.text import read_objects
from flax_sd.run_folder import saved_config
from flax_sd.run_folder.layout import PICTURES


def differences(then: Mapping[str, object], now: Mapping[str, object], changed: str) -> list[str]:
    """Lists the names that are missing, new or `changed`, with a line for each kind."""
    kinds = {
        "missing": then.keys() - now.keys(),
        "new": now.keys() - then.keys(),
        changed: {name for name in then.keys() & now.keys() if then[name] != now[name]},
    }
    return [f"{kind}: {some(sorted(names))}" for kind, names in kinds.items() if names]


def check(folder: pathlib.Path, images: Images) -> None:
    """Checks that a run with a checkpoint still has the images that it began with.

    All of them decide which step shows which image.

    Raises:
      UserError: some are missing, new or changed.
    """
    lines = read_objects(folder / PICTURES)
    then = {line["file"]: line["hash"] for line in lines if {"file", "hash"} <= line.keys()}
    now = images.digests()
    # If a folder is moved, only names change; the order decides which step shows which image.
    if (
        not then
        or list(then.values()) == list(now.values())
        or not saved_config.has_checkpoint(folder)
    ):
        return
    others = differences(then, now, "changed content, caption or mask")
    others = others or ["the same images in another order"]
    others += [f"left out now: {name}, {reason}" for name, reason in images.bad if name in then]
    head = (
        f"{images.cfg.path} does not hold the images that {folder} was trained on so far; "
        "restore them and run the same command again to resume, or begin a new run "
        "(lora.start continues from the LoRA of this one):"
    )
    raise UserError(listed(head, others))


def write(folder: pathlib.Path, images: Images) -> None:
    """Writes a line for each image: `file`, and `hash` of content, captions and mask.

    Raises:
      UserError: it cannot be written.
    """
    if jax.process_index() == 0:
        rows = ({"file": name, "hash": digest} for name, digest in images.digests().items())
        write_atomically(folder / PICTURES, "".join(json.dumps(row) + "\n" for row in rows))
