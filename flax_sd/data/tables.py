"""Captioned pictures in a `datasets` table: a hub id, parquet or arrow files, or save_to_disk."""

import glob
import itertools
import pathlib
import re
from typing import Any

import huggingface_hub

from flax_sd.data import splits
from flax_sd.data.account import Account
from flax_sd.data.cells import list_rows
from flax_sd.data.endings import METADATA, is_picture
from flax_sd.data.records import Bad, Listing
from flax_sd.errors import UserError, shown

# owner/set, and the name of one of its configurations where it has several.
HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?::(?P<config>.+))?")
PARQUET, ARROW = FILES = (".parquet", ".arrow")
ARROW_FILE = b"ARROW1"  # how arrow's file format begins; its stream format has no such mark
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"  # what save_to_disk writes


def is_table(path: pathlib.Path) -> bool:
    """Whether a path is a table: a file of one, or a folder with one and no metadata file."""
    if path.is_file():
        return path.suffix.lower() in FILES
    if not path.is_dir():
        return False
    if any((path / name).is_file() for name in (SAVED, SAVED_SPLITS)):
        return True
    files = Account(path).files
    named = any(file.name.lower() in METADATA for file in files)
    return not named and any(file.suffix.lower() in FILES for file in files)


def list_table(source: str, image_column: str, caption_column: str | None) -> Listing:
    """Lists the rows of the train split of a local table or a hub id.

    Args:
      caption_column: None gives each picture an empty caption.

    Raises:
      UserError: the table cannot be loaded, or lacks a column.
    """
    files, unused = _files(pathlib.Path(source))
    table = _load(source, files)
    listing = list_rows(source, table, image_column, caption_column)
    listing.unused.extend(unused)
    return listing


def _files(path: pathlib.Path) -> tuple[list[pathlib.Path], list[Bad]]:
    """The files of a local table that are read, and a word for all others."""
    if not path.is_dir():
        if path.suffix.lower() == PARQUET and path.is_file() and _is_empty(path):
            raise UserError(f"{shown(path)} has no rows")
        return [path] if path.is_file() else [], []
    account = Account(path)
    if (path / SAVED).is_file() or (path / SAVED_SPLITS).is_file():
        return _saved(account)
    tables = [file for file in account.files if file.suffix.lower() in FILES]
    kinds = {file.suffix.lower() for file in tables}
    if len(kinds) > 1:
        right = "keep one, or name the file or folder that is meant"
        raise UserError(f"{shown(path)} holds both {' and '.join(sorted(kinds))} files: {right}")
    of = {file: splits.split_of_file(file.relative_to(path)) for file in tables}
    divided = splits.are_divided(of.values())
    for (split, held_out), files in itertools.groupby(
        sorted(of, key=lambda file: (of[file] or "", file)),
        key=lambda file: (of[file], splits.alone(of, file) if of[file] else None),
    ):
        if divided and split != "train":
            account.set_aside_together(list(files), splits.not_trained_on(split, held_out))
    for file in tables:
        if file in account.files and file.suffix.lower() == PARQUET and _is_empty(file):
            account.set_aside(file, "has no rows")
    used = [file for file in tables if file in account.files]
    if not used:
        raise UserError(f"{shown(path)} has no rows")
    return used, _closed(account, used)


def _is_empty(file: pathlib.Path) -> bool:
    """Whether a parquet file has no rows, which `datasets` takes for an error."""
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_metadata(file).num_rows == 0
    except (pyarrow.ArrowException, OSError):  # which reading it will say
        return False


def _saved(account: Account) -> tuple[list[pathlib.Path], list[Bad]]:
    """The same of what save_to_disk wrote; which of its files are read is for `datasets`."""
    parts = [path.parent for path in account.files if path.name == SAVED]
    for part in parts:
        own = [file for file in account.files if file.parent == part]
        if part not in (account.folder, account.folder / "train"):
            account.set_aside(part, splits.not_trained_on(part.name, part))
        account.use(*(file for file in own if not is_picture(file)))
    return [], _closed(account, [account.folder / SAVED_SPLITS])


def _closed(account: Account, used: list[pathlib.Path]) -> list[Bad]:
    account.use(*used)
    beside = "a picture beside a table, whose rows alone are read"
    pictures = account.pictures()
    account.set_aside_together(pictures, beside)
    account.close(lambda path: None)
    return [*account.listing.bad, *account.listing.unused]


def list_shard(name: str, content: bytes, image_column: str, caption_column: str | None) -> Listing:
    """Lists the rows of one parquet or arrow file, which is kept in memory and nowhere else.

    Raises:
      UserError: as `list_table`.
    """
    import datasets
    import pyarrow.parquet

    buffer = pyarrow.BufferReader(content)
    try:
        if pathlib.PurePosixPath(name).suffix.lower() == ARROW:
            made = datasets.Dataset(_read_arrow(buffer))
        else:
            made = datasets.Dataset(pyarrow.parquet.read_table(buffer))
    except Exception as error:  # damaged bytes lead to whatever they lead to
        raise UserError(f"{name} cannot be read: {_first_line(error)}") from error
    return list_rows(name, made, image_column, caption_column)


def _load(source: str, files: list[pathlib.Path]) -> Any:
    import datasets

    path = pathlib.Path(source)
    try:
        if files and files[0].suffix.lower() == ARROW:
            return datasets.Dataset(_map_arrow(files))
        if files:
            names = [glob.escape(str(file)) for file in files]
            return datasets.load_dataset("parquet", data_files=names, split="train")
        if path.exists():
            return _train_split(source, datasets.load_from_disk(source))
        return _from_hub(source)
    except UserError:
        raise
    except (
        Exception
    ) as error:  # the builders raise pyarrow's, huggingface_hub's and fsspec's errors
        where = "" if path.exists() else ": there is no such folder here, and as a datasets id"
        raise UserError(f"{shown(source)}{where} cannot be loaded: {_first_line(error)}") from error


def _map_arrow(files: list[pathlib.Path]) -> Any:
    """The rows of arrow files, which stay on the disk."""
    import pyarrow

    return pyarrow.concat_tables(_read_arrow(pyarrow.memory_map(str(file))) for file in files)


def _read_arrow(source: Any) -> Any:
    import pyarrow

    mark = source.read(len(ARROW_FILE))
    source.seek(0)
    is_file = mark == ARROW_FILE
    return (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(source).read_all()


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # "An error occurred while generating the dataset" says less
        error = error.__cause__
    return shown(str(error).split("\n")[0]) or type(error).__name__


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
