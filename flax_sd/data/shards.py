"""The shards of a streamed set, and the images in one."""

import errno
import functools
import glob
import hashlib
import http.client
import itertools
import json
import pathlib
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from flax_sd.config import DataConfig
from flax_sd.data.dataset import Images, open_listing
from flax_sd.data.sources import splits
from flax_sd.data.sources.account import Account
from flax_sd.data.sources.file_names import is_there
from flax_sd.data.sources.file_types import is_about_the_set, is_left_behind
from flax_sd.data.sources.records import Bad, Listing, gathered
from flax_sd.data.sources.tables import FILES, list_shard
from flax_sd.data.sources.tar import list_tar
from flax_sd.errors import UserError, shown
from flax_sd.files.retry import PAUSES, with_retries

SUFFIXES = (".tar", *FILES)
BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")  # {000..123} or {a,b}
SILENCE = 60  # seconds without a byte after which a server counts as away
# What a server may say and take back: too early, too many requests, its own faults.
PASSING = {408, 425, 429, 500, 502, 503, 504}


class Shard(NamedTuple):
    """A piece of a set that is read as a whole."""

    name: str  # a path or a URL
    size: int | None  # bytes; None where only reading it would tell


class Found(NamedTuple):
    """The shards that a path names, and the other files there."""

    shards: tuple[Shard, ...]
    unused: list[Bad]


def find_shards(path: str) -> tuple[Shard, ...]:
    """Returns the shards that a folder or a pattern names, sorted by name.

    Raises:
      UserError: there are none, or they cannot be listed.
    """
    return find_all(path).shards


def find_all(path: str) -> Found:
    """Returns the shards, and a remark for every other file there.

    Of what one pattern finds, the train split is taken where there is one beside others.

    Raises:
      UserError: there are none, or they cannot be listed.
    """
    shards, unused = set[Shard](), list[Bad]()
    for pattern in _expanded(path):
        found, lost = _find(pattern)
        taken, others = _train_split(pattern, found)
        shards.update(taken)
        unused += lost + others
    named = tuple(sorted(shard for shard in shards if _suffix(shard.name) in SUFFIXES))
    if not named:
        raise UserError(
            f"{path} names no shards: with data.stream, data.path is a folder of "
            f"{', '.join(SUFFIXES)} files, or names them, as shard-{{000..123}}.tar or *.parquet"
        )
    return Found(named, gathered(unused))


def _train_split(pattern: str, found: list[Shard]) -> tuple[list[Shard], list[Bad]]:
    """Returns the shards of the train split, if there are others, and the files that are no
    shards."""
    taken, unused, top = [], [], _top(pattern)
    shards = sorted(shard for shard in found if _suffix(shard.name) in SUFFIXES)
    of = {shard: splits.split_of_file(_below(shard.name, top)) for shard in shards}
    divided = splits.are_divided(of.values())
    for shard in sorted(found):
        name = pathlib.PurePosixPath(shard.name)
        if shard not in of:
            if not is_left_behind(name.name) and not is_about_the_set(name):
                unused.append(Bad(shown(shard.name), f"no shard: {', '.join(SUFFIXES)} are read"))
        elif divided and of[shard] != "train":
            unused.append(Bad(shown(shard.name), splits.not_trained_on(of[shard], None)))
        else:
            taken.append(shard)
    return taken, unused


def _top(pattern: str) -> str:
    """Returns the folder above a pattern's first wildcard."""
    parts = pathlib.PurePosixPath(pattern).parts
    plain = itertools.takewhile(lambda part: not glob.has_magic(part), parts)
    return str(pathlib.PurePosixPath(*plain))


def _below(name: str, top: str) -> pathlib.PurePosixPath:
    path, holder = pathlib.PurePosixPath(name), pathlib.PurePosixPath(top)
    return path.relative_to(holder) if holder in path.parents else pathlib.PurePosixPath(path.name)


def fingerprint(shards: Sequence[Shard]) -> str:
    """Returns 16 digits of the SHA-256 of the shards' names and sizes."""
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()[:16]


def open_shard(
    shard: Shard, cfg: DataConfig, *, captioned: bool = True, stop: threading.Event | None = None
) -> Images:
    """Reads a shard into memory and opens each of its images; all may be unusable.

    Args:
      stop: when to give up.

    Raises:
      Stopped: it was set.
      UserError: it cannot be read, or with `on_bad: stop` something in it is wrong.
    """
    content = read(shard)
    column = cfg.caption_column if captioned else None
    try:
        if _suffix(shard.name) == ".tar":
            listing = list_tar(shard.name, content, column)
        else:
            listing = list_shard(shard.name, content, cfg.image_column, column)
    except UserError as error:
        listing = Listing([], [Bad(shard.name, str(error))], [])
    own = cfg.model_copy(update={"path": shard.name})
    return open_listing(own, listing, captioned=captioned, stop=stop)


def read(shard: Shard, pauses: Sequence[int] = PAUSES) -> bytes:
    """Returns the bytes of a shard, retrying after pauses while its drive or server is away.

    Raises:
      UserError: it cannot be read, or is not as long as it was.
    """
    try:
        content = with_retries(functools.partial(_read, shard.name), shard.name, pauses)
    except OSError as error:
        raise UserError(
            f"{shard.name} cannot be read ({error.strerror or error}): once it can be read, "
            "run the same command again to resume"
        ) from error
    if shard.size not in (None, len(content)):
        raise UserError(
            f"{shard.name} had {shard.size} bytes when the run began and has {len(content)} now: "
            "put it back as it was and run the same command again to resume"
        )
    return content


def _read(name: str) -> bytes:
    if "://" not in name:
        return pathlib.Path(name).read_bytes()
    if name.startswith(("http://", "https://")):
        return _download(name)
    import fsspec  # here because it takes a while, and shards on a disk do without it

    try:
        system, path = fsspec.core.url_to_fs(name)
        return system.cat_file(path)
    except (FileNotFoundError, PermissionError, ImportError, ValueError) as error:
        raise OSError(errno.ENOENT, str(error)) from error
    except Exception as error:  # each file system has errors of its own for what may pass
        raise OSError(errno.ECONNABORTED, str(error) or type(error).__name__) from error


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=SILENCE) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        with error:
            code = errno.ECONNABORTED if error.code in PASSING else errno.ENOENT
            raise OSError(code, f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise OSError(errno.ECONNABORTED, str(reason) or type(reason).__name__) from error


def _expanded(path: str) -> Iterator[str]:
    """Returns all paths that a path with braces stands for."""
    parts = BRACES.split(path)
    choices = [
        [parts[i]] if i % 4 == 0 else _alternatives(*parts[i : i + 3])
        for i in range(len(parts))
        if i % 4 < 2
    ]
    return ("".join(chosen) for chosen in itertools.product(*choices))


def _alternatives(first: str | None, last: str | None, listed: str | None) -> list[str]:
    if first is None or last is None:
        return (listed or "").split(",")
    return [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]


def _find(pattern: str) -> tuple[list[Shard], list[Bad]]:
    """Returns the files that a pattern without braces, a folder or a file names; and the other
    files."""
    if "://" in pattern:
        return _find_away(pattern), []
    path, lost = pathlib.Path(pattern).expanduser(), list[Bad]()
    if path.is_dir():
        account = Account(path)
        files = list(account.files)
        lost = account.listing.bad + account.listing.unused
    elif glob.has_magic(pattern) and not is_there(path):
        files = map(pathlib.Path, glob.glob(str(path), recursive=True))
    elif not is_there(path):
        raise UserError(f"{pattern} is not there: with data.stream, data.path names shards")
    else:
        files = [path]
    return [Shard(str(file), file.stat().st_size) for file in files if file.is_file()], lost


def _find_away(url: str) -> list[Shard]:
    """Returns the same from a remote file system; a web server does not list its files."""
    starred = "*" in url
    if not starred and _suffix(url) in SUFFIXES:
        return [Shard(url, None)]
    if url.startswith(("http://", "https://")):
        raise UserError(
            f"{url}: a web server does not list its files: name each, as shard-{{000..123}}.tar"
        )
    import fsspec  # as above

    try:
        system, path = fsspec.core.url_to_fs(url)
        listed = (system.glob if starred else system.find)(path, detail=True)
        return [
            Shard(system.unstrip_protocol(name), info.get("size"))
            for name, info in listed.items()
            if info.get("type") == "file"
        ]
    except Exception as error:  # each file system has errors of its own
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(f"{url} cannot be listed: {reason}") from error


def _suffix(name: str) -> str:
    path = urllib.parse.urlsplit(name).path if "://" in name else name
    return pathlib.PurePosixPath(path).suffix.lower()
