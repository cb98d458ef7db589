"""What both picture sets are made of: npm packages, and the names Unicode gives to emoji."""

import json
import subprocess
import tarfile
from pathlib import Path

NAMES = ("unicode-emoji-json", "0.9.0")  # MIT

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
        subprocess.run(["npm", "pack", f"{name}@{version}"], cwd=packages, check=True)
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


def caption(style: str, name: str) -> str:
    """Returns e.g. "a 3d render of an alarm clock": all sets share all words but the style's."""
    article = "an" if name[0].lower() in "aeiou" else "a"
    return f"a {style} of {article} {name.lower()}"


def write_metadata(folder: Path, rows: list[tuple[str, str]]) -> None:
    """Writes `folder`/metadata.jsonl from (file name, caption), ordered by file name."""
    objects = [{"file_name": file, "text": text} for file, text in sorted(rows)]
    lines = [json.dumps(row, ensure_ascii=False) for row in objects]
    (folder / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
