"""Builds the bundled style: images that teach the quickstart's LoRA to draw flat.

    pip install resvg-py
    python scripts/build_style_set.py

Microsoft's flat emoji (npm `fluentui-emoji`, MIT) rasterised on white. The subjects are ones that
the bundled base saw as 3D renders, and the captions are ones that it knows with the style added as
it knows keywords: so the LoRA has the style to learn, and no subject. The style's subjects are
chosen by a hash of the name alone. style_held_out has other ones, which the base knows and the
style lacks; their loss, and images of their captions, show what was learnt.
"""

import argparse
import importlib
import io
import re
from pathlib import Path

import build_emoji_set
import emoji
from PIL import Image

PICTURES = ("fluentui-emoji", "1.3.0")
STYLE = "flat drawing"
SIZE = 128  # pixels, the bundled base's resolution

SHARE = 0.25  # of the subjects that have a drawing: enough that the style is what they share
HELD_OUT_SUBJECTS = (
    *("wolf", "cow face", "hamster", "crab", "lemon", "avocado", "teacup without handle"),
    *("alarm clock", "trumpet", "tulip", "locomotive", "crying face"),
)


def slug(name: str) -> str:
    """Returns the name as a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name)


def rasterise(svg: Path) -> Image.Image:
    """Returns the drawing on white, SIZE pixels a side."""
    # Only this script draws SVG, so the rasteriser is no dependency of the project.
    resvg = importlib.import_module("resvg_py")
    png = resvg.svg_to_bytes(svg_path=str(svg), width=SIZE, height=SIZE, background="white")
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


def drawings(packages: Path) -> dict[str, Path]:
    """Returns name → drawing, of all that the base was trained on and that are drawn."""
    flat = emoji.npm_package(PICTURES, packages) / "icons" / "flat"
    names = [name for name, _ in build_emoji_set.drawn(packages).values()]
    known = [name.lower() for name in names if not build_emoji_set.held_out(name)]
    found = {name: flat / f"{slug(name)}.svg" for name in known}
    return {name: file for name, file in found.items() if file.is_file()}


def chosen(name: str) -> bool:
    """Says whether the style set shows a subject."""
    return emoji.share_of(f"flat {name}") < SHARE and name not in HELD_OUT_SUBJECTS


def build(out: Path, drawn: dict[str, Path]) -> None:
    """Writes an image of each name and the metadata.jsonl that captions them."""
    out.mkdir(parents=True, exist_ok=True)
    for name, file in drawn.items():
        rasterise(file).save(out / f"{slug(name)}.png", optimize=True)
    rows: list[tuple[str, str | list[str]]] = [
        (f"{slug(name)}.png", f"{emoji.with_article(name)}, {STYLE}") for name in drawn
    ]
    emoji.write_metadata(out, rows)


def main() -> None:
    """Builds both sets; LICENSE and README.md are written by hand."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("flax_sd/bundled"))
    parser.add_argument(
        "--packages",
        type=Path,
        default=Path("data/npm"),
        help="folder of extracted npm packages (NAME-VERSION/package); absent ones are fetched",
    )
    args = parser.parse_args()
    drawn = drawings(args.packages)
    build(args.out / "style", {name: file for name, file in drawn.items() if chosen(name)})
    build(args.out / "style_held_out", {name: drawn[name] for name in HELD_OUT_SUBJECTS})


if __name__ == "__main__":
    main()
