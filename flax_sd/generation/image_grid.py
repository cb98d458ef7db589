"""Labelled grids of images."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from flax_sd.run_folder.sample_grid import Place

GAP, FONT_SIZE = 6, 12  # pixels
LINE = FONT_SIZE + GAP // 2
INK, PAPER = (40, 40, 40), (255, 255, 255)

SheetImage = UInt8[np.ndarray, "h w 3"]


def make_sheet(
    rows: Sequence[Sequence[SheetImage]], columns: Sequence[str], labels: Sequence[str]
) -> Image.Image:
    """Makes a grid of equally large images with a title over each column and a label at each row.

    Args:
      columns: a title for each column, wrapped to the image's width; may be empty.
      labels: a label for each row, wrapped to the image's width.
    """
    height, width = rows[0][0].shape[:2]
    font = ImageFont.load_default(FONT_SIZE)
    titles, names = ([_wrapped(text, width) for text in texts] for texts in (columns, labels))
    lines = max((title.count("\n") + 1 for title in titles), default=0)
    left = 2 * GAP + max(math.ceil(_width(name, font)) for name in names)
    top = GAP + (lines * LINE + GAP if titles else 0)
    count = max(len(row) for row in rows)
    size = (left + count * (width + GAP), top + len(rows) * (height + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for j, title in enumerate(titles):
        draw.multiline_text((left + j * (width + GAP), GAP), title, INK, font)
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = top + i * (height + GAP)
        draw.multiline_text((GAP, y), name, INK, font)
        for j, image in enumerate(row):
            sheet.paste(Image.fromarray(image), (left + j * (width + GAP), y))
    return sheet


def make_grid(
    images: Sequence[SheetImage], labels: Sequence[str], across: int
) -> tuple[Image.Image, list[Place]]:
    """Makes a grid of equally large images, `across` in each row, with labels below them.

    Returns the places of the images too.
    """
    height, width = images[0].shape[:2]
    font = ImageFont.load_default(FONT_SIZE)
    texts = [_wrapped(label, width) for label in labels]
    below = max(text.count("\n") + 1 for text in texts) * LINE
    rows = -(-len(images) // across)
    step_x = max(width, *(math.ceil(_width(text, font)) for text in texts)) + GAP
    step_y = height + below + 2 * GAP
    sheet = Image.new("RGB", (GAP + across * step_x, GAP + rows * step_y), PAPER)
    draw = ImageDraw.Draw(sheet)
    places = []
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        x, y = GAP + i % across * step_x, GAP + i // across * step_y
        sheet.paste(Image.fromarray(image), (x, y))
        draw.multiline_text((x, y + height + GAP // 2), text, INK, font)
        places.append((x, y, width, height, labels[i]))
    return sheet, places


def _wrapped(text: str, width: int) -> str:
    """Wraps a text to lines of `width` pixels, at least 96."""
    return "\n".join(textwrap.wrap(text, max(96, width) * 2 // FONT_SIZE))


def _width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> float:
    """Returns the width in pixels of the longest line."""
    return max(font.getlength(line) for line in text.split("\n"))
