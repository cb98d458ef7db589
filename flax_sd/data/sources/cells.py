"""The cells of a table: images and captions, either of which may be malformed."""

import errno
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

from flax_sd.data.sources.file_names import why_no_name
from flax_sd.data.sources.metadata import DOWNLOAD, is_url
from flax_sd.data.sources.records import Bad, Listing, Record, caption_tuple
from flax_sd.errors import UserError, shown, some

ROWS = 1000  # looked at together
URL = f"a URL, not an image: {DOWNLOAD}"


Table = Any  # a datasets.Dataset: that library is imported when a table is read
Cell = Any  # a pyarrow.Scalar


def list_rows(source: str, table: Table, image_column: str, caption_column: str | None) -> Listing:
    """Lists the rows of a `datasets` table: each is a record, or is left out by its number.

    Raises:
      UserError: it has no rows, or no column of images or of captions.
    """
    images = _images(source, table, image_column, caption_column)
    listing, urls = Listing([], [], []), 0
    texts = [""] * len(images) if caption_column is None else _texts(table, caption_column)
    for row, (cell, text) in enumerate(zip(_cells(images, image_column), texts, strict=True)):
        name, captions, why = f"row {row}", caption_tuple(text), _why_no_image(cell)
        urls += why == URL
        if why is not None:
            listing.bad.append(Bad(name, why))
        elif isinstance(captions, str):
            listing.bad.append(Bad(name, f"column {caption_column!r} holds {captions}"))
        else:
            read = functools.partial(_read, images, row, image_column)
            listing.records.append(Record(name, captions, read))
    if urls == len(images):
        raise UserError(
            f"column {image_column!r} of {shown(source)} holds URLs, not images: {DOWNLOAD}"
        )
    return listing


def _images(source: str, table: Table, image_column: str, caption_column: str | None) -> Table:
    """Returns the column of images as Arrow stores it: bytes, or the path of a file."""
    # Imported here because it takes a second, and a folder of images does without it.
    import datasets

    options = {"data.image_column": image_column, "data.caption_column": caption_column}
    wanted = {name: column for name, column in options.items() if column is not None}
    missing = [c for c in wanted.values() if c not in table.column_names]
    if missing:
        raise UserError(
            f"{shown(source)} has no column {' and no column '.join(map(repr, missing))}, only "
            f"{some(list(map(repr, table.column_names)))}: set {' and '.join(wanted)}"
        )
    images = table.select_columns([image_column])
    try:
        images = images.cast_column(image_column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # the last is pyarrow's
        kind = table.features[image_column]
        raise UserError(
            f"column {image_column!r} of {shown(source)} holds {kind}, not images"
        ) from error
    if not len(images):
        raise UserError(f"{shown(source)} has no rows")
    return images.with_format("arrow")


def _cells(table: Table, column: str) -> Iterator[Cell]:
    """Yields the cells of a column as Arrow's scalars, not yet converted."""
    for first in range(0, len(table), ROWS):
        yield from table[first : first + ROWS][column]


def _texts(table: Table, column: str) -> Iterator[Cell]:
    """Yields the cells of a column; as bytes if they are not valid text."""
    for cell in _cells(table.select_columns([column]).with_format("arrow"), column):
        try:
            yield cell.as_py()
        except UnicodeDecodeError as error:
            yield error.object


def _why_no_image(cell: Cell) -> str | None:
    """Returns why a cell holds no image, as far as this is known without reading it."""
    if not cell.is_valid or not (cell["bytes"].is_valid or cell["path"].is_valid):
        return "no image in this row"
    if cell["bytes"].is_valid:
        return None
    try:
        path = cell["path"].as_py()
    except UnicodeDecodeError:
        return "its path is not UTF-8"
    return URL if is_url(path) else why_no_name(path)


def _read(images: Table, row: int, column: str) -> bytes:
    (cell,) = images[row : row + 1][column]
    if cell["bytes"].is_valid:
        return cell["bytes"].as_py()
    path = pathlib.Path(cell["path"].as_py())
    if path.exists() and not path.is_file():  # a pipe would never end
        raise OSError(errno.EINVAL, "its path is no file's")
    return path.read_bytes()
