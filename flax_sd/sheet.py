"""Labelled grids of pictures."""

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

GAP, FONT_SIZE = 6, 12  # pixels
INK, PAPER = (40, 40, 40), (255, 255, 255)

Picture = UInt8[np.ndarray, "h w 3"]


def make_sheet(
    rows: Sequence[Sequence[Picture]], columns: Sequence[str], labels: Sequence[str]
) -> Image.Image:
    """Draws rows of equally large pictures with a title over each column and a label at each row.

    Args:
      columns: one title a column; may be empty.
      labels: one a row, wrapped to the picture's width.
    """
    height, width = rows[0][0].shape[:2]
    font = ImageFont.load_default(FONT_SIZE)
    side = max(96, width)
    top = FONT_SIZE + 2 * GAP if columns else GAP
    count = max(len(row) for row in rows)
    size = (side + GAP + count * (width + GAP), top + len(rows) * (height + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for j, title in enumerate(columns):
        draw.text((side + GAP + j * (width + GAP), GAP), title, INK, font)
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = top + i * (height + GAP)
        lines = textwrap.wrap(label, max(8, side * 2 // FONT_SIZE))
        draw.multiline_text((GAP, y), "\n".join(lines), INK, font)
        for j, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (side + GAP + j * (width + GAP), y))
    return sheet


def make_grid(pictures: Sequence[Picture], labels: Sequence[str], across: int) -> Image.Image:
    """Draws equally large pictures in rows of `across`, each with its label below it."""
    height, width = pictures[0].shape[:2]
    font = ImageFont.load_default(FONT_SIZE)
    texts = [textwrap.wrap(label, max(8, width * 2 // FONT_SIZE)) for label in labels]
    line = FONT_SIZE + GAP // 2
    below = max(map(len, texts)) * line
    rows = -(-len(pictures) // across)
    step_x, step_y = width + GAP, height + below + 2 * GAP
    sheet = Image.new("RGB", (GAP + across * step_x, GAP + rows * step_y), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        x, y = GAP + i % across * step_x, GAP + i // across * step_y
        sheet.paste(Image.fromarray(picture), (x, y))
        draw.multiline_text((x, y + height + GAP // 2), "\n".join(text), INK, font)
    return sheet
