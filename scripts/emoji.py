"""What both image sets are made of: npm packages, and the names Unicode gives to emoji."""

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path

NAMES = ("unicode-emoji-json", "0.9.0")  # MIT
KEYWORDS = ("emojibase-data", "16.0.3")  # MIT; of Unicode's annotations (CLDR)

LEFT_OUT_GROUPS = ("Flags", "Symbols")  # near-identical shapes and letters teach a caption little


def npm_package(package: tuple[str, str], packages: Path) -> Path:
    """Returns the folder that holds `package` (name, version), fetched by `npm pack` if absent.

    Raises:
      FileNotFoundError: npm is not installed.
      subprocess.CalledProcessError: npm could not fetch the package.
    """
    name, version = package
    folder = packages / f"{name.lstrip('@').replace('/', '-')}-{version}"
    if not folder.is_dir():
        packages.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=packages, check=True)
        with tarfile.open(f"{folder}.tgz") as archive:
            archive.extractall(folder, filter="data")
    return folder / "package"


def emoji_names(packages: Path) -> dict[str, str]:
    """Returns emoji → English name, without flags and symbols; skin tones are not in the list."""
    text = (npm_package(NAMES, packages) / "data-by-emoji.json").read_text("utf-8")
    return {
        emoji: entry["name"]
        for emoji, entry in json.loads(text).items()
        if entry["group"] not in LEFT_OUT_GROUPS
    }


def emoji_keywords(packages: Path) -> dict[str, list[str]]:
    """Returns the emoji's code points, as "1f42f-fe0f", → the words people look for it with."""
    text = (npm_package(KEYWORDS, packages) / "en" / "data.json").read_text("utf-8")
    return {entry["hexcode"].lower(): entry.get("tags", []) for entry in json.loads(text)}


def with_article(name: str) -> str:
    """Returns e.g. "an alarm clock"."""
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name.lower()}"


def captions(style: str, name: str, keywords: list[str]) -> list[str]:
    """Returns several wordings of a caption: the plain one, without the style, with keywords."""
    plain, name = f"a {style} of {with_article(name)}", name.lower()
    wordings = [plain, with_article(name), name]
    others = [word for word in keywords if word not in name]
    if others:
        wordings += [f"{plain}, {', '.join(others)}", f"{name}, {', '.join(others)}"]
    return wordings


def share_of(name: str) -> float:
    """Returns a number in [0, 1) that hangs on the name alone: the same for ever, in every set."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32


def write_metadata(folder: Path, rows: list[tuple[str, str | list[str]]]) -> None:
    """Writes `folder`/metadata.jsonl from (file name, caption or captions), ordered by name."""
    objects = [{"file_name": file, "text": text} for file, text in sorted(rows)]
    lines = [json.dumps(row, ensure_ascii=False) for row in objects]
    (folder / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
