"""Builds the bundled style: pictures that teach the quickstart's LoRA to draw flat.

    pip install resvg-py
    python scripts/build_style_set.py

Microsoft's flat emoji (npm `fluentui-emoji`, MIT) rasterised on white. The subjects are ones that
the bundled base saw as 3D renders, and the captions differ from the base's in the style alone: so
the LoRA has the style to learn, and no subject. style_held_out has other subjects, which the base
knows and the style lacks; their loss, and pictures of their captions, show what was learnt.
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

STYLE_SUBJECTS = """
    tiger face, panda, lion, fox, koala, frog, pig face, rabbit face, chicken, owl, turtle, octopus,
    butterfly, lady beetle, elephant,
    red apple, banana, pear, strawberry, watermelon, carrot, hamburger, pizza, doughnut,
    ice cream, croissant, cheese wedge, hot beverage, birthday cake,
    light bulb, key, hammer, umbrella, bell, guitar, camera, wrapped gift, trophy, backpack, crown,
    magnet, top hat, sunflower, cactus, mushroom, evergreen tree, rose, sun, snowman,
    rocket, bicycle, sailboat, house, automobile, airplane,
    grinning face, smiling face with sunglasses, angry face, robot, ghost, alien
"""
HELD_OUT_SUBJECTS = """
    wolf, cow face, hamster, crab, lemon, avocado, teacup without handle, alarm clock, trumpet,
    tulip, locomotive, crying face
"""


def subjects(text: str) -> list[str]:
    """Returns the names in a comma-separated list."""
    return [" ".join(name.split()) for name in text.split(",")]


def rasterise(svg: Path) -> Image.Image:
    """Returns the drawing on white, SIZE pixels a side."""
    # Only this script draws SVG, so the rasteriser is no dependency of the project.
    resvg = importlib.import_module("resvg_py")
    png = resvg.svg_to_bytes(svg_path=str(svg), width=SIZE, height=SIZE, background="white")
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


def build(out: Path, names: list[str], packages: Path) -> None:
    """Writes a picture of each name and the metadata.jsonl that captions them.

    Raises:
      ValueError: the base was not trained on a name, or there is no drawing of it.
    """
    flat = emoji.npm_package(PICTURES, packages) / "icons" / "flat"
    known = {
        name.lower()
        for name in emoji.emoji_names(packages).values()
        if not build_emoji_set.held_out(name)
    }
    slugs = {name: re.sub(r"[^a-z0-9]+", "-", name) for name in names}
    wrong = [
        n for n, slug in slugs.items() if n not in known or not (flat / f"{slug}.svg").exists()
    ]
    if wrong:
        raise ValueError(f"no drawing, or unknown to the base: {', '.join(wrong)}")
    out.mkdir(parents=True, exist_ok=True)
    for slug in slugs.values():
        rasterise(flat / f"{slug}.svg").save(out / f"{slug}.png", optimize=True)
    rows: list[tuple[str, str | list[str]]] = [
        (f"{slug}.png", emoji.caption(STYLE, name)) for name, slug in slugs.items()
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
    build(args.out / "style", subjects(STYLE_SUBJECTS), args.packages)
    build(args.out / "style_held_out", subjects(HELD_OUT_SUBJECTS), args.packages)


if __name__ == "__main__":
    main()
