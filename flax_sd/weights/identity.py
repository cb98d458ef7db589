"""The identity of a model: its fingerprint and its name."""

import hashlib
import pathlib
from collections.abc import Iterable

_BLOCK, _BLOCKS = 2**16, 16  # bytes, places


def fingerprint(files: Iterable[pathlib.Path]) -> str:
    """Returns 10 hex digits of the SHA-256 of samples of the files, without reading gigabytes."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            for place in range(_BLOCKS):
                stream.seek(max(0, size - _BLOCK) * place // (_BLOCKS - 1))
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()[:10]


def display_name(source: str) -> str:
    """Returns a hub id or bundled name unchanged, but only the last part of a (private) path."""
    if source.startswith("bundled:") or not is_local(source):
        return source
    return pathlib.Path(source).expanduser().resolve().name


def is_local(source: str) -> bool:
    """Returns whether a source can be found without the network."""
    return source.count("/") != 1 or source.startswith((".", "~")) or pathlib.Path(source).exists()
