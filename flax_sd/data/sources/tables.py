"""Captioned images in a `datasets` table: a hub id, parquet or arrow files, or save_to_disk."""

import collections
import glob
import pathlib
import re
from typing import Any

import huggingface_hub

from flax_sd.data.sources import splits
from flax_sd.data.sources.account import Account
from flax_sd.data.sources.cells import Table, list_rows
from flax_sd.data.sources.file_names import is_there
from flax_sd.data.sources.file_types import METADATA, is_image
from flax_sd.data.sources.records import Bad, Listing
from flax_sd.errors import UserError, shown, some

# owner/set, and the name of one of its configurations where it has several.
HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?::(?P<config>.+))?")
PARQUET, ARROW = FILES = (".parquet", ".arrow")
ARROW_FILE = b"ARROW1"  # how arrow's file format begins; its stream format has no such mark
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"  # what save_to_disk writes


def is_table(path: pathlib.Path) -> bool:
    """Tells whether a path is a table: a file, or a folder with one and no list of images."""
    if path.is_file():
        return path.suffix.lower() in FILES
    if not path.is_dir():
        return False
    if _is_saved(path):
        return True
    files = Account(path).files
    if not any(file.suffix.lower() in FILES for file in files):
        return False
    named = [file for file in files if file.name.lower() in METADATA]
    holders = {parent for file in files if is_image(file) for parent in file.parents}
    return not any(file.parent == path or file.parent in holders for file in named)


def list_table(source: str, image_column: str, caption_column: str | None) -> Listing:
    """Lists the rows of the train split of a local table or a hub id.

    Args:
      caption_column: None gives each image an empty caption.

    Raises:
      UserError: the table cannot be loaded, or lacks a column.
    """
    path, rest = pathlib.Path(source), Listing([], [], [])
    files = [path] if path.is_file() else []
    if path.is_dir():
        account = Account(path)
        files = _saved(account) if _is_saved(path) else _of_train(account)
        beside = "an image beside a table, whose rows alone are read"
        account.set_aside_together(account.images(), beside)
        account.close(lambda path: None)
        rest = account.listing
    made = _load(source, files)
    listing = list_rows(source, made, image_column, caption_column)
    unused = rest.unused if path.exists() else _other_splits(made)
    return Listing(listing.records, listing.bad + rest.bad, unused)


def _other_splits(made: Table) -> list[Bad]:
    """Lists the splits of a hub data set that are not read."""
    why = "not trained on; saved as a parquet file, --data.held_out FILE evaluates the loss on it"
    return [Bad(f"split {shown(name)}", why) for name in made.info.splits or () if name != "train"]


def _is_saved(folder: pathlib.Path) -> bool:
    """Tells whether save_to_disk wrote a folder."""
    return any(is_there(folder / name) for name in (SAVED, SAVED_SPLITS))


def _saved(account: Account) -> list[pathlib.Path]:
    """Sets aside other splits that save_to_disk wrote; `datasets` knows which files it reads."""
    account.use(account.folder / SAVED_SPLITS)
    for part in [path.parent for path in account.files if path.name == SAVED]:
        own = [file for file in account.files if file.parent == part]
        account.use(*(file for file in own if file.suffix in (ARROW, ".json")))
        if part not in (account.folder, account.folder / "train"):
            account.set_aside(part, splits.not_trained_on(part.name, part))
            account.use(*own)
    return []


def _of_train(account: Account) -> list[pathlib.Path]:
    """Returns the table files to read; sets aside empty ones and those of other splits."""
    tables = [file for file in account.files if file.suffix.lower() in FILES]
    kinds = sorted({file.suffix.lower() for file in tables})
    if len(kinds) > 1:
        found = f"{shown(account.folder)} holds both {' and '.join(kinds)} files"
        raise UserError(f"{found}: keep one, or name the file or folder that is meant")
    of = {file: splits.split_of_file(file.relative_to(account.folder)) for file in tables}
    if splits.are_divided(of.values()):
        others = collections.defaultdict[str, list[pathlib.Path]](list)
        for file in (file for file, split in of.items() if split != "train"):
            path = splits.alone(of, file) if of[file] else None
            others[splits.not_trained_on(of[file], path)].append(file)
        for why, files in others.items():
            account.set_aside_together(files, why)
    for file in filter(_is_empty, [file for file in tables if file in account.files]):
        account.set_aside(file, "has no rows")
    used = [file for file in tables if file in account.files] or tables
    account.use(*used)
    return used


def _is_empty(file: pathlib.Path) -> bool:
    """Tells whether a parquet file has no rows, which `datasets` treats as an error."""
    import pyarrow.parquet

    if file.suffix.lower() != PARQUET:
        return False
    try:
        return pyarrow.parquet.read_metadata(file).num_rows == 0
    except (pyarrow.ArrowException, OSError):  # which reading it will say
        return False


def list_shard(name: str, content: bytes, image_column: str, caption_column: str | None) -> Listing:
    """Lists the rows of one parquet or arrow file, which is kept in memory only.

    Raises:
      UserError: as `list_table`.
    """
    import pyarrow.parquet

    buffer = pyarrow.BufferReader(content)
    try:
        if pathlib.PurePosixPath(name).suffix.lower() == ARROW:
            made = _dataset(_read_arrow(buffer))
        else:
            made = _dataset(pyarrow.parquet.read_table(buffer))
    except Exception as error:  # damaged bytes may raise anything
        raise UserError(f"{name} cannot be read: {_first_line(error)}") from error
    return list_rows(name, made, image_column, caption_column)


def _load(source: str, files: list[pathlib.Path]) -> Table:
    import datasets

    path = pathlib.Path(source)
    if files and all(map(_is_empty, files)):
        raise UserError(f"{shown(source)} has no rows")
    try:
        if files and files[0].suffix.lower() == ARROW:
            return _dataset(_map_arrow(files))
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
        why = _wrong_file(files) or _first_line(error)
        raise UserError(f"{shown(source)}{where} cannot be loaded: {why}") from error


def _wrong_file(files: list[pathlib.Path]) -> str:
    """Names which of several parquet files is damaged or has other columns than the first."""
    import pyarrow.parquet

    names: list[str] = []
    for file in files if len(files) > 1 and files[0].suffix.lower() != ARROW else ():
        try:
            own = pyarrow.parquet.read_schema(file).names
        except Exception as error:  # damaged bytes may raise anything
            return f"{shown(file.name)}: {_first_line(error)}"
        names = names or own
        if own != names:
            columns, others = (some([repr(name) for name in each]) for each in (own, names))
            return (
                f"{shown(file.name)} has the columns {columns}, and {shown(files[0].name)} "
                f"{others}: name one of them alone, or give them the same"
            )
    return ""


def _dataset(table: Table) -> Table:
    """Returns an Arrow table as a `datasets` one; without a name each byte would be hashed."""
    import datasets

    return datasets.Dataset(table, fingerprint="rows")


def _map_arrow(files: list[pathlib.Path]) -> Table:
    """Maps the rows of arrow files, which stay on the disk."""
    import pyarrow

    return pyarrow.concat_tables(_read_arrow(pyarrow.memory_map(str(file))) for file in files)


def _read_arrow(source: Any) -> Table:
    import pyarrow

    mark = source.read(len(ARROW_FILE))
    source.seek(0)
    is_file = mark == ARROW_FILE
    table = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(source).read_all()
    binary = {pyarrow.string(): pyarrow.binary(), pyarrow.large_string(): pyarrow.large_binary()}
    for column in table.columns:  # damaged ones would lead Arrow out of the memory that it has
        for chunk in column.chunks:
            kind = binary.get(chunk.type, chunk.type)  # text that is no UTF-8 costs its row alone
            (chunk if kind == chunk.type else chunk.view(kind)).validate(full=True)
    return table


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # "An error occurred while generating the dataset" says less
        error = error.__cause__
    return shown(str(error).split("\n")[0]) or type(error).__name__


def _from_hub(source: str) -> Table:
    import datasets

    match = HUB_ID.fullmatch(source)
    assert match is not None, "dataset.py sees to that"
    _ask_hub(match["id"])
    return datasets.load_dataset(match["id"], match["config"], split="train")


def _ask_hub(source: str) -> None:
    """Asks the hub once for a set that is not cached: load_dataset itself retries for half a
    minute."""
    from datasets import config

    owner = source.split("/")[0]
    if not any(pathlib.Path(config.HF_DATASETS_CACHE).glob(f"{owner}___*")):
        huggingface_hub.HfApi().dataset_info(source, timeout=20)


def _train_split(source: str, loaded: Table) -> Table:
    if not isinstance(loaded, dict):
        return loaded
    if "train" not in loaded:
        raise UserError(f"{source} has no split 'train', only {', '.join(map(repr, loaded))}")
    return loaded["train"]
