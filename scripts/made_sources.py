"""Folders, archives and tables of images, made by a seed, with what users' own have in them."""

import io
import json
import os
import pathlib
import random
import re
import tarfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from flax_sd.data.sources.file_types import is_left_behind
from flax_sd.errors import shown

WORDS = [
    "a cat",
    "",
    "one\ntwo",
    "a, b, c",
    "kočka 猫",
    "\u2028\x0b\x85 odd",
    "x" * 200,
    '"sks" cat',
]
WORDS += ["\x1b[31mred", "half \ud83d", "\ud83d\ude00", "nul \0", "=1+1", "a\r\nb", "a\rb"]
NAMES = ["cat", "a b", "é", "é", "x.y", "猫", "\x1b[31m", "line\nend", "it's", '"q"', "#1", "50%"]
NAMES += ["n" * 240, "back\\\\slash", "-dash", "a?b*[c]", "$HOME", "COM1", "trailing ", "\u202egnp"]
JUNK = [".DS_Store", "Thumbs.db", "desktop.ini", "._a.png", "@eaDir/a.png", "#recycle/b.png"]
JUNK += ["__MACOSX/._a.png", ".ipynb_checkpoints/a.png", "lost+found/x.png", "~$a.docx"]
OTHERS = [
    "1.npz",
    "movie.mp4",
    "b.heic",
    "set.zip",
    "noending",
    "captions.json",
    "x.PSD",
    "log.csv",
]
FOLDERS = ["", "", "deep/er/", "10_cat/", "2_dog run/", "train/", "test/", "val/", "Validation/"]
URLS = ["https://x.org/1.png", "s3://bucket/1.png"]


class Made(NamedTuple):
    """A source.

    Attributes:
      entries: names of which a word is due.
      rows: of a table.
    """

    path: pathlib.Path
    entries: list[str]
    captioned: bool = True
    stream: bool = False
    rows: int | None = None


def make(kind: str, seed: str, folder: pathlib.Path) -> Made:
    """Makes a source of a kind (of KINDS) in an empty folder."""
    return KINDS[kind](random.Random(seed), folder / "set")


def _encoded() -> list[bytes]:
    """Good images and bad ones."""
    good = []
    for i, (kind, mode) in enumerate(
        [("PNG", "RGB"), ("JPEG", "L"), ("PNG", "RGBA"), ("GIF", "P")]
    ):
        memory = io.BytesIO()
        noise = np.random.default_rng(i).integers(0, 256, (20, 18, 3), np.uint8)
        Image.fromarray(noise).convert(mode).save(memory, kind)
        good.append(memory.getvalue())
    return [*good * 3, b"", b"<html>", good[0][:60], good[1][:-40]]


CONTENTS = _encoded()


def _write(path: pathlib.Path, content: bytes) -> bool:
    """Writes a file; whether the system has such names, and nothing was there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
    except (OSError, ValueError):
        return False
    return True


def _text(rng: random.Random, words: str) -> bytes:
    """A text as programs save it, and as they break it."""
    how = rng.choice(["utf-8"] * 12 + ["utf-8-sig", "utf-16", "latin-1", "utf-16-le"])
    return words.encode(
        how, rng.choice(["surrogatepass", "replace"]) if "utf" in how else "replace"
    )


def _name(rng: random.Random) -> str:
    end = rng.choice([".png"] * 5 + [".jpg", ".PNG", ".webp", ".jpeg"])
    return rng.choice(FOLDERS) + rng.choice(NAMES) + str(rng.randrange(100)) + end


def _images(rng: random.Random, folder: pathlib.Path) -> list[str]:
    """Writes some images; their names below the folder."""
    folder.mkdir()
    names = [_name(rng) for _ in range(rng.randint(0, 8))]
    return [name for name in names if _write(folder / name, rng.choice(CONTENTS))]


def _strange(rng: random.Random, folder: pathlib.Path) -> list[str]:
    """Adds what else lies in folders; the names of which a word is due."""
    made = []
    for name in rng.sample(JUNK + OTHERS, rng.randint(0, 5)):
        if _write(folder / name, b"x") and not any(map(is_left_behind, name.split("/"))):
            made.append(name)
    links: list[tuple[str, str]] = [
        ("gone.png", "no\x1bwhere.png"), ("around", "around"), ("up", ".."), ("self", "."),
        ("7_link", "../beside"), ("same.png", "cat1.png"),
    ]  # fmt: skip
    for name, target in rng.sample(links, rng.randint(0, 3)):
        if not os.path.lexists(folder / name):
            (folder / name).symlink_to(target)
            made.append(name + ("/a.png" if "beside" in target else ""))
    _write(folder.parent / "beside" / "a.png", CONTENTS[0])
    if rng.random() < 0.2:
        (folder / "empty").mkdir()
        made.append("empty")
    if rng.random() < 0.1:
        os.mkfifo(folder / "pipe.png")
        made.append("pipe.png")
    if rng.random() < 0.2 and _write(
        pathlib.Path(os.fsdecode(os.fsencode(folder) + b"/b\xff.png")), b"x"
    ):
        made.append("b\udcff.png")
    return made


def folder(rng: random.Random, path: pathlib.Path) -> Made:
    """Pictures with captions beside them, sd-scripts' layout and splits among them."""
    names = _images(rng, path)
    ends = [".txt"] * 8 + [".TXT", ".caption", ".txt.txt", ".cap"]
    for name in names:
        if rng.random() < 0.8:
            caption = (path / name).with_suffix(rng.choice(ends))
            _write(caption, _text(rng, rng.choice(WORDS)))
        if rng.random() < 0.1:
            stem = (path / name).stem
            _write((path / name).with_name(f"{stem}-masklabel.png"), rng.choice(CONTENTS))
    entries = [*names, *_strange(rng, path)]
    return Made(path, [*map(shown, entries)], captioned=rng.random() < 0.8)


def metadata(rng: random.Random, path: pathlib.Path) -> Made:
    """Pictures that a metadata file names, or does not."""
    names = _images(rng, path)
    rows: list[dict[str, Any]] = []
    for name in [*names, "not there.png"]:
        written = rng.choice(
            [name] * 8 + [name.replace("/", "\\"), f"./{name}", rng.choice(URLS), None]
        )
        wrong = rng.choice([None, 3, [], ["a", 4], {"en": "a"}, ["a", "b"]])
        rows.append({"file_name": written, "text": rng.choice([rng.choice(WORDS)] * 6 + [wrong])})
        if rng.random() < 0.02:
            rows[-1]["file_name"] = "../out.png"
    below = rng.choice([""] * 6 + ["train/"])
    (path / below).mkdir(exist_ok=True)
    make = rng.choice([_jsonl, _csv])
    text = make(rng, rows)
    if rng.random() < 0.9:
        text = re.sub("[\0\ud800-\udfff]", "", text)
    _write(path / below / make.__name__.replace("_", "metadata."), _text(rng, text))
    entries = [*names, *_strange(rng, path)]
    return Made(path, [*map(shown, entries)], captioned=rng.random() < 0.9)


def _jsonl(rng: random.Random, rows: list[dict[str, Any]]) -> str:
    if rng.random() < 0.05:
        return json.dumps(rows, indent=rng.choice([None, 1]))
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.7) for row in rows if row["file_name"]]
    if rng.random() < 0.05:
        lines.append(rng.choice(["{", "[" * 9999, "3", '{"a": 1, "a": 2}']))
    return rng.choice(["\n", "\r\n"]).join(lines)


def _csv(rng: random.Random, rows: list[dict[str, Any]]) -> str:
    """With quotes where they are due, and where not."""
    end, lines = rng.choice(["\n", "\r\n", "\r"]), ["file_name,text"]
    for row in rows:
        fields = [str(row["file_name"]), str(row["text"])]
        if rng.random() < 0.7:
            fields = ['"' + field.replace('"', '""') + '"' for field in fields]
        lines.append(",".join(fields) + rng.choice([""] * 9 + [",", ",more", '"']))
    return end.join(lines)


def tar(rng: random.Random, path: pathlib.Path) -> Made:
    """An archive as webdataset has them, whole or damaged."""
    path.mkdir()
    entries = []
    with tarfile.open(path / "s.tar", "w") as archive:
        for _ in range(rng.randint(0, 8)):
            name = _name(rng)
            stem = name.split(".")[0]
            captions = {".txt": _text(rng, rng.choice(WORDS))}
            captions[".json"] = json.dumps({"text": rng.choice([*WORDS, None, 3])}).encode()
            files = {name: rng.choice(CONTENTS)}
            files |= {
                stem + end: content for end, content in captions.items() if rng.random() < 0.6
            }
            entries.append(name)
            if rng.random() < 0.2:
                entries.append(stem + rng.choice([".jpg", ".cls", ".heic", ".x.png"]))
                files[entries[-1]] = rng.choice(CONTENTS)
            for each, content in files.items():
                member = tarfile.TarInfo(each)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        for kind in rng.sample(
            [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE], rng.randint(0, 2)
        ):
            member = tarfile.TarInfo(f"link{kind.decode()}.png")
            member.type, member.linkname = kind, rng.choice([*entries, "nowhere", member.name])
            archive.addfile(member)
            entries.append(member.name)
    whole = _damaged(rng, path / "s.tar")
    return Made(path, [*map(shown, entries)] if whole else [], rng.random() < 0.9, stream=True)


def _damaged(rng: random.Random, path: pathlib.Path) -> bool:
    """Damages some files; whether this one is left whole."""
    content = bytearray(path.read_bytes())
    how = rng.random()
    if how < 0.1:
        content = content[: rng.randrange(len(content) + 1)]
    elif how < 0.3 and content:
        for _ in range(rng.randint(1, 20)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)
    return how >= 0.3


def _table(rng: random.Random) -> pa.Table:
    """Cells of every kind."""
    rows = rng.randint(0, 8)
    paths = [None, "", "/nowhere/a.png", "/", "a\0b", "x" * 5000, *URLS]
    cells: list[Any] = [
        {"bytes": rng.choice(CONTENTS), "path": rng.choice(paths)} for _ in range(rows)
    ]
    for i in range(rows):
        if rng.random() < 0.3:
            cells[i] = rng.choice([None, {"bytes": None, "path": rng.choice(paths)}])
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = rng.choice([lambda: pa.array(cells, struct)] * 6 + [
        lambda: pa.array([cell and cell["bytes"] for cell in cells], pa.binary()),
        lambda: pa.array([cell and cell["path"] for cell in cells], pa.string()),
        lambda: pa.array([rng.choice(URLS) for _ in cells], pa.string()),
        lambda: pa.array([3] * rows), lambda: pa.array([[1, 2]] * rows), lambda: pa.nulls(rows),
    ])()  # fmt: skip
    words = [rng.choice(WORDS).encode("utf-8", "surrogatepass") for _ in range(rows)]
    some = [None if rng.random() < 0.1 else word for word in words]
    texts = rng.choice([lambda: pa.array(some, pa.binary()).view(pa.string())] * 5 + [
        lambda: pa.array(some, pa.binary()), lambda: pa.array([3.5] * rows),
        lambda: pa.array([["a", "b"]] * rows), lambda: pa.array([[None]] * rows),
    ])()  # fmt: skip
    return pa.table({rng.choice(["image"] * 9 + ["img"]): images, "text": texts})


def _saved(rng: random.Random, path: pathlib.Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif rng.random() < 0.5:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)


def shard(rng: random.Random, path: pathlib.Path) -> Made:
    """A table that is streamed, whole or damaged."""
    table = _table(rng)
    file = path / f"s.{rng.choice(['parquet', 'arrow'])}"
    _saved(rng, file, table)
    whole = _damaged(rng, file) and "image" in table.column_names
    return Made(
        path, [], rng.random() < 0.9, stream=True, rows=None if not whole else table.num_rows
    )


def table(rng: random.Random, path: pathlib.Path) -> Made:
    """A folder of tables, of one split or of several, and what lies beside them."""
    made, end = _table(rng), rng.choice([".parquet", ".arrow"])
    names = rng.choice(
        [["a"], ["data/train-0"], ["data/train-0", "data/test-0"], ["train/0", "val/0"]]
    )
    for name in names:
        _saved(rng, path / f"{name}{end}", made)
    entries = [f"{name}{end}" for name in names[1:]] + _strange(rng, path)
    return Made(path, [*map(shown, entries)], rng.random() < 0.9)


KINDS: dict[str, Callable[[random.Random, pathlib.Path], Made]] = {
    "folder": folder, "metadata": metadata, "tar": tar, "shard": shard, "table": table,
}  # fmt: skip
