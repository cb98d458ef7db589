"""The safetensors format: read through a memory map, written with the same bytes every time.

A file is the header's length (8 bytes, little-endian), the header (JSON: name -> dtype, shape,
data_offsets; padded with spaces to 8 bytes) and the tensors' bytes without gaps. The `safetensors`
library writes metadata in random order and knows bfloat16 only through torch; hence this module.
"""

import contextlib
import hashlib
import json
import math
import mmap
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, NoReturn

import ml_dtypes
import numpy as np

from flax_sd.errors import UserError
from flax_sd.files import file_kind
from flax_sd.files.atomic import atomic_file, flush_to_disk, os_reason
from flax_sd.files.json_values import parse_object, shown
from flax_sd.weights.deferred import Tensor, in_memory

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),  # without infinities, as torch's
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # bytes; the library's own limit
_MAX_AXES = 32  # of a tensor; NumPy allows 64
_COMPARED = 2**30  # bytes; reading a larger file again, such as a UNet, takes too long


class _Entry(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the file
    end: int


class TensorFile(Mapping[str, np.ndarray]):
    """A safetensors file: its header in memory, its tensors mapped on access.

    Attributes:
      path: the file.
      metadata: the strings of `__metadata__`.

    Raises:
      UserError: the file is missing, incomplete or not safetensors; names what it is instead.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        header, start, size = _read_header(self.path)
        metadata = header.pop("__metadata__", {})
        metadata = metadata if isinstance(metadata, dict) else {}
        self.metadata: dict[str, str] = {k: v for k, v in metadata.items() if isinstance(v, str)}
        self._entries = {key: _entry(self.path, key, raw, start) for key, raw in header.items()}
        _check_coverage(self.path, self._entries, start, size)
        with self.path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._map, np.uint8)

    def shape(self, key: str) -> tuple[int, ...]:
        """Returns a tensor's shape without reading its bytes."""
        return self._entries[key].shape

    def dtype(self, key: str) -> np.dtype:
        """Returns a tensor's dtype without reading its bytes."""
        return self._entries[key].dtype

    def __getitem__(self, key: str) -> np.ndarray:
        """Returns the tensor as a read-only view of the file.

        Where the system can, pages that were read before are released: a model that is copied
        tensor by tensor is never in memory twice. A view still in use reads its pages again.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
        dtype, shape, begin, end = self._entries[key]
        return self._bytes[begin:end].view(dtype).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _broken(path: pathlib.Path, what: str) -> UserError:
    return UserError(f"{path} is not a whole safetensors file: {what}; download or write it again")


def _read_header(path: pathlib.Path) -> tuple[dict, int, int]:
    """Returns the header, the byte where the data begins, and the size of the file."""
    if not path.is_file():
        raise UserError(f"{path} is not there (expected a safetensors file)")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            beginning = file.read(file_kind.BEGINNING)
            length = int.from_bytes(beginning[:8], "little")
            if size < 8 or not 2 <= length <= _MAX_HEADER or beginning[8:9] != b"{":
                _refuse_foreign(path, beginning)
            if 8 + length > size:
                missing = 8 + length - size
                raise _broken(
                    path, f"{missing} bytes of its header and all its tensors are missing"
                )
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        raise UserError(f"{path} could not be read: {os_reason(error, path)}") from error
    try:
        return parse_object(text, "its header"), 8 + length, size
    except UserError as error:
        raise _broken(path, str(error)) from error


def _refuse_foreign(path: pathlib.Path, beginning: bytes) -> NoReturn:
    """Raises for a file that does not begin as safetensors do, and names what it is."""
    if found := file_kind.kind_of(beginning) or file_kind.text_of(beginning):
        raise UserError(f"{path} is {found}")
    if beginning[8:9] == b"{":
        length = int.from_bytes(beginning[:8], "little")
        raise _broken(path, f"its header claims {length} bytes; {_MAX_HEADER} is the most")
    raise _broken(path, "it does not begin with a header's length and a header")


def _entry(path: pathlib.Path, key: str, raw: object, start: int) -> _Entry:
    """Returns one entry of the header, checked by itself."""
    try:
        assert isinstance(raw, dict)
        name, shape, (begin, end) = raw["dtype"], tuple(raw["shape"]), raw["data_offsets"]
        assert isinstance(name, str) and len(shape) <= _MAX_AXES
        assert all(type(n) is int and 0 <= n < 2**63 for n in (*shape, begin, end))
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise _broken(path, f"its header has an invalid entry for {key}: {shown(raw)}") from error
    if name not in _DTYPES:
        raise UserError(f"{path}: {key} has dtype {name}, not one of {', '.join(_DTYPES)}")
    if end - begin != math.prod(shape) * _DTYPES[name].itemsize:
        raise _broken(path, f"{key} of {name} {list(shape)} cannot fill {end - begin} bytes")
    return _Entry(_DTYPES[name], shape, start + begin, start + end)


def _check_coverage(path: pathlib.Path, entries: dict[str, _Entry], start: int, size: int) -> None:
    """Checks that the tensors fill the file to its end without gaps or overlaps."""
    at = start
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            raise _broken(path, f"{key} begins at byte {entry.begin}, where {at} is expected")
        at = entry.end
    if at != size:
        ends = f"its tensors end at byte {at}, the file has {size}"
        raise _broken(path, f"{ends}: {at - size} bytes are missing" if at > size else ends)


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    shared: bool = False,
) -> None:
    """Writes a safetensors file: equal content gives equal bytes; it appears whole or not at all.

    Before the file is moved into place it is read again from the disk and compared with what was
    written: all bytes of a file up to 1 GiB, header and size of a larger one.

    No more than one tensor that is `Deferred` is in memory at a time.

    Args:
      shared: whether several processes may write this path at once.

    Raises:
      UserError: the file cannot be written (a full disk, a missing folder), or the disk returns
        other bytes.
    """
    path = pathlib.Path(path)
    order = sorted(tensors, key=lambda key: (-tensors[key].dtype.itemsize, key))
    header, size = _header(tensors, order, metadata or {})
    digest = hashlib.sha256(header) if size <= _COMPARED else None
    with atomic_file(path, shared=shared) as file:
        file.write(header)
        for key in order:
            _write_tensor(file, tensors[key], digest)
        flush_to_disk(file)
        _forget(file.fileno())
        written = pathlib.Path(file.name)
        if not _gives_back(written, header, size, digest.digest() if digest else None):
            raise UserError(
                f"cannot write {path}: the disk returned other bytes than were written to it; an "
                "older file is left unchanged. Check the disk, or write to another one."
            )


def _write_tensor(file: BinaryIO, tensor: Tensor, digest: Any) -> None:
    """Writes a tensor's bytes, and adds them to the digest; nothing of them stays in memory."""
    flat = np.ascontiguousarray(in_memory(tensor)).reshape(-1).view(np.uint8)
    file.write(flat.data)
    if digest:
        digest.update(flat.data)


def _forget(descriptor: int) -> None:
    """Drops a file from the system's cache, so that the next read comes from the disk."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # some file systems cannot
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _gives_back(path: pathlib.Path, header: bytes, size: int, digest: bytes | None) -> bool:
    """Returns whether a file has that header and size and, unless it is None, that SHA-256."""
    try:
        TensorFile(path)
    except UserError:
        return False
    with path.open("rb") as file:
        same = file.read(len(header)) == header and os.fstat(file.fileno()).st_size == size
        if same and digest is not None:
            file.seek(0)
            same = hashlib.file_digest(file, "sha256").digest() == digest
    return same


def _header(
    tensors: Mapping[str, Tensor], order: list[str], metadata: Mapping[str, str]
) -> tuple[bytes, int]:
    """Returns the header with its length, and the size of the whole file in bytes.

    Tensors are stored in `order`, widest dtype first, so that each is aligned.
    """
    entries, at = {}, 0
    for key in order:
        tensor = tensors[key]
        end = at + math.prod(tensor.shape) * tensor.dtype.itemsize
        entries[key] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    first = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    text = json.dumps(first | dict(sorted(entries.items())), separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, 8 + len(text) + at
