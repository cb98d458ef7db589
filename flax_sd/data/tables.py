"""Captioned pictures in a `datasets` table: a hub id, parquet or arrow files, or save_to_disk."""

import functools
import pathlib
import re
from typing import Any

import huggingface_hub

from flax_sd.data.records import Bad, Listing, Record, caption_tuple
from flax_sd.errors import UserError

# owner/set, and the name of one of its configurations where it has several.
HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?::(?P<config>.+))?")
FILES = {".parquet": "parquet", ".arrow": "arrow"}  # suffix → the builder that reads it
ARROW_FILE = b"ARROW1"  # how arrow's file format begins; its stream format has no such mark


def table_files(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the parquet or arrow files at or under `path`, in order."""
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [p for p in found if p.suffix in FILES and p.is_file()]
    return [p for p in files if p.suffix == files[0].suffix]  # never two formats of one set


def list_table(source: str, image_column: str, caption_column: str | None) -> Listing:
    """Lists the rows of the train split of a local table or a hub id.

    Args:
      caption_column: None gives each picture an empty caption.

    Raises:
      UserError: the table cannot be loaded, or lacks a column.
    """
    return _list_rows(source, _load(source), image_column, caption_column)


def list_shard(name: str, content: bytes, image_column: str, caption_column: str | None) -> Listing:
    """Lists the rows of one parquet or arrow file, which is kept in memory and nowhere else.

    Raises:
      UserError: as `list_table`.
    """
    import datasets
    import pyarrow.parquet

    buffer = pyarrow.BufferReader(content)
    try:
        if FILES[pathlib.PurePosixPath(name).suffix] == "parquet":
            table = pyarrow.parquet.read_table(buffer)
        elif content.startswith(ARROW_FILE):
            table = pyarrow.ipc.open_file(buffer).read_all()
        else:
            table = pyarrow.ipc.open_stream(buffer).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{name} cannot be read: {str(error).splitlines()[0]}") from error
    return _list_rows(name, datasets.Dataset(table), image_column, caption_column)


def _list_rows(source: str, table: Any, image_column: str, caption_column: str | None) -> Listing:
    # Imported here because it takes a second, and a folder of pictures does without it.
    import datasets

    options = {"data.image_column": image_column, "data.caption_column": caption_column}
    wanted = {name: column for name, column in options.items() if column is not None}
    missing = [c for c in wanted.values() if c not in table.column_names]
    if missing:
        raise UserError(
            f"{source} has no column {' and no column '.join(map(repr, missing))}, only "
            f"{', '.join(map(repr, table.column_names))}: set {' and '.join(wanted)}"
        )
    images = table.select_columns([image_column])
    try:
        images = images.cast_column(image_column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # the last is pyarrow's
        kind = table.features[image_column]
        raise UserError(
            f"column {image_column!r} of {source} holds {kind}, not pictures"
        ) from error
    if not len(images):
        raise UserError(f"{source} has no rows")
    listing = Listing([], [], [])
    values = [""] * len(images) if caption_column is None else table[caption_column]
    for row, value in enumerate(values):
        captions, name = caption_tuple(value), f"row {row}"
        if captions is None:
            reason = (
                f"column {caption_column!r} holds {value!r:.40}, not a caption or a list of them"
            )
            listing.bad.append(Bad(name, reason))
        else:
            read = functools.partial(_read, images, row, image_column)
            listing.records.append(Record(name, captions, read))
    return listing


def _load(source: str) -> Any:
    import datasets

    path = pathlib.Path(source)
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _train_split(source, datasets.load_from_disk(source))
        if path.exists():
            files = table_files(path)
            names = [str(file) for file in files]
            builder = FILES[files[0].suffix]
            return datasets.load_dataset(builder, data_files=names, split="train")
        return _from_hub(source)
    except UserError:
        raise
    except (
        Exception
    ) as error:  # the builders raise pyarrow's, huggingface_hub's and fsspec's errors
        where = "" if path.exists() else ": there is no such folder here, and as a datasets id"
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(f"{source}{where} cannot be loaded: {reason}") from error


def _from_hub(source: str) -> Any:
    import datasets

    match = HUB_ID.fullmatch(source)
    assert match is not None, "pictures.py sees to that"
    _ask_hub(match["id"])
    return datasets.load_dataset(match["id"], match["config"], split="train")


def _ask_hub(source: str) -> None:
    """Asks once for a set that is not cached: load_dataset itself tries for half a minute."""
    from datasets import config

    owner = source.split("/")[0]
    if not any(pathlib.Path(config.HF_DATASETS_CACHE).glob(f"{owner}___*")):
        huggingface_hub.HfApi().dataset_info(source, timeout=20)


def _train_split(source: str, loaded: Any) -> Any:
    if not isinstance(loaded, dict):
        return loaded
    if "train" not in loaded:
        raise UserError(f"{source} has no split 'train', only {', '.join(map(repr, loaded))}")
    return loaded["train"]


def _read(images: Any, row: int, column: str) -> bytes:
    cell = images[row][column]
    if cell is None:
        raise FileNotFoundError(2, "no picture in this row")
    return cell["bytes"] if cell["bytes"] is not None else pathlib.Path(cell["path"]).read_bytes()
