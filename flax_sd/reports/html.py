"""Pages that open from the file system: one HTML file with its style and its images inside."""

import base64
import html
import io
import json

from PIL import Image

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 2.5rem } h3 { margin: 1.5rem 0 .2rem }
table { border-collapse: collapse } .wide-table { margin: 1rem 0 }
td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top }
details { margin: 1rem 0 } summary { cursor: pointer }
th { border-bottom: 1px solid #bbb } td.number, th.number { text-align: right }
.quiet { color: #666 } .files { columns: 22rem } .files div { break-inside: avoid }
.gallery { display: flex; flex-wrap: wrap; gap: .8rem; margin: .6rem 0 }
figure { margin: 0; width: 9rem; font-size: 12px; line-height: 1.35 }
h1, h2, figure b, .files { overflow-wrap: break-word } .wide-table { overflow-x: auto }
figure img { display: block; max-width: 9rem; max-height: 9rem; margin-bottom: .25rem;
  border: 1px solid #ddd }
figure b { display: block }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd }
  .quiet { color: #999 } th { border-color: #555 } figure img { border-color: #444 } }
"""


def document(title: str, body: str, head: str = "") -> str:
    """Returns a whole page; `title` is text, `body` and what is added to the `head` are HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style>{head}</head>\n"
        f"<body><main>\n<h1>{breakable(title)}</h1>\n{body}\n</main></body></html>\n"
    )


def text(value: object) -> str:
    """Escapes a value for HTML; undecodable names become signs."""
    return html.escape(str(value).encode("utf-8", "replace").decode())


def breakable(value: object) -> str:
    """Escapes a value for HTML; its line may end behind a slash, so that long paths fit."""
    return text(value).replace("/", "/<wbr>")


def table(head: list[str], rows: list[list[object]]) -> str:
    """Returns a table; numbers are aligned right, and a dash stands for None.

    Where it is wider than the page it scrolls by itself, also with the keyboard.
    """

    def cell(tag: str, value: object, *, number: bool) -> str:
        shown = breakable("–" if value is None else value)
        return f"<{tag}{' class=number' if number else ''}>{shown}</{tag}>"

    numeric = [all(isinstance(row[j], int | float) for row in rows) for j in range(len(head))]
    lines = [("th", head), *(("td", row) for row in rows)]
    body = "\n".join(
        f"<tr>{''.join(cell(tag, v, number=n) for v, n in zip(row, numeric, strict=True))}</tr>"
        for tag, row in lines
    )
    return f'<div class="wide-table" tabindex="0"><table>\n{body}\n</table></div>'


def figure(image: Image.Image | None, name: str, words: str) -> str:
    """Returns an image with its name and words below it; without an image, the words alone."""
    shown = "" if image is None else f'<img alt="{text(name)}" src="{data_url(image)}">'
    return f"<figure>{shown}<b>{text(name)}</b>{text(words)}</figure>"


def data_url(image: Image.Image, side: int = 144) -> str:
    """Returns the image as a data URL, with sides of at most `side` pixels."""
    small = image.copy()
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def embedded(value: object) -> str:
    """Returns JSON for a page's scripts."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    safe = text.encode("utf-8", "replace").decode().replace("<", "\\u003c")
    return f'<script type="application/json">{safe}</script>'
