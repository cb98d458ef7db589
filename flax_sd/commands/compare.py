"""flax-sd compare: runs beside one another, in the terminal and on a page."""

import pathlib
from collections.abc import Sequence

import tyro

from flax_sd.config import Section, flags
from flax_sd.config.section import UserPath
from flax_sd.errors import UserError
from flax_sd.files.atomic import write_atomically
from flax_sd.reports.comparison import Table, compare_page, different, figures, read_all
from flax_sd.system.exit_status import DONE
from flax_sd.system.progress import Progress

WIDEST = 50  # letters of a cell in the terminal


class CompareOptions(Section):
    """Shows runs beside one another: a table here, and a page with their curves and pictures."""

    runs: tyro.conf.Positional[tuple[UserPath, ...]]
    """Folders of runs."""
    out: UserPath = pathlib.Path("compare.html")
    """The page to write; pictures stay in the runs' folders."""


def main(args: Sequence[str]) -> int:
    """`flax-sd compare RUN RUN … [--out compare.html]`: prints the table and writes the page.

    Raises:
      UserError: there is no run in a folder, or the page cannot be written.
    """
    options = flags.read_flags(CompareOptions, "compare", args)
    runs = read_all(options.runs)
    if options.out.is_dir():
        raise UserError(f"--out {options.out} is a folder: name a file, as compare.html")
    progress = Progress()
    for line in text_table([["", *runs], *figures(runs), *different(runs)]):
        progress.say(line)
    write_atomically(options.out, compare_page(runs, options.out.absolute().parent))
    progress.stage("written", str(options.out))
    return DONE


def text_table(rows: Table) -> list[str]:
    """Lines with columns as wide as they must be; a long list is shown by its beginning."""
    head, *rows = rows
    below = [["–" if cell is None else _begun(str(cell)) for cell in row] for row in rows]
    texts = [list(map(str, head)), *below]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    ]


def _begun(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
