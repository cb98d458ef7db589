"""flax-sd compare: shows runs side by side, in the terminal and on a page."""

from flax_sd.config.commands import CompareOptions
from flax_sd.errors import UserError
from flax_sd.files.atomic import write_atomically
from flax_sd.reports.comparison import compare_page, different, figures, read_all
from flax_sd.system.exit_status import DONE
from flax_sd.system.progress import Progress

MAX_CELL = 50  # letters of a cell in the terminal


def main(options: CompareOptions) -> int:
    """Prints a table and writes a page.

    Raises:
      UserError: a folder is not a run's, or the page cannot be written.
    """
    runs = read_all(options.runs)
    if options.out.is_dir():
        raise UserError(f"--out {options.out} is a folder: name a file, as compare.html")
    progress = Progress()
    rows = [[_cell(value) for value in row] for row in (*figures(runs), *different(runs))]
    progress.table([["", *runs], *rows], "<")
    write_atomically(options.out, compare_page(runs, options.out.absolute().parent))
    progress.stage("written", str(options.out))
    return DONE


def _cell(value: object) -> str:
    """Returns the value as text, a long one shortened."""
    text = "–" if value is None else str(value)
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1]}…"
