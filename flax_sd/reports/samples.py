"""The samples of runs on a page: a slider over the steps, and one image at all steps."""

import os
import pathlib
import urllib.parse
from collections.abc import Sequence

from flax_sd.files.json_values import JsonObject
from flax_sd.reports.html import embedded, text
from flax_sd.run_folder.history import History
from flax_sd.run_folder.sample_grid import read_grid

WEB = pathlib.Path(__file__).parent / "web"
SCRIPTS = ("large.js", "slides.js", "steps.js")


def scripts() -> str:
    """Returns the scripts of a page with samples."""
    return "\n".join((WEB / name).read_text("utf-8") for name in SCRIPTS)


def samples(runs: Sequence[History], names: Sequence[str], folder: pathlib.Path) -> str:
    """Returns the samples of the runs, side by side; nothing if there are none.

    Args:
      names: one a run, which may be empty.
      folder: where the page is.
    """
    steps = places(runs, folder)
    return slides(steps, names) if steps else ""


def places(runs: Sequence[History], folder: pathlib.Path) -> list[JsonObject]:
    """Returns each step at which a run drew samples, with each run's newest samples by then."""
    shown = [{step: _grid(run, step, folder) for step in run.grids} for run in runs]
    return [
        {"step": step, "pictures": [_newest(grids, step) for grids in shown]}
        for step in sorted({step for grids in shown for step in grids})
    ]


def slides(places: Sequence[JsonObject], names: Sequence[str]) -> str:
    """Returns a slider and an image for each name; without scripts, the last images are shown.

    Args:
      places: {"step": n, "pictures": […]} for each place of the slider, the last of which is shown
        first; an image is {"step": its own, "file": its address, "size": …, "images": …}, or None.
      names: one an image, which may be empty.
    """
    last, step = len(places) - 1, places[-1]["step"]
    frames = [
        _frame(name, image) for name, image in zip(names, places[-1]["pictures"], strict=True)
    ]
    return (
        f'<div class="slides"><div class="control"><output>step {step}</output>'
        f'<input type="range" aria-label="step" min="0" max="{last}" value="{last}">'
        f'<span class="quiet">← →</span></div><div class="frames">{"".join(frames)}</div>'
        f"{embedded({'names': list(names), 'places': list(places)})}</div>"
    )


def opens_large(address: str, alt: str) -> str:
    """Returns an image that a click or Enter shows large; without scripts, alone."""
    return (
        f'<a class="large" href="{text(address)}" title="show it large">'
        f'<img class="sheet" alt="{text(alt)}" src="{text(address)}"></a>'
    )


def link(path: pathlib.Path, page_folder: pathlib.Path) -> str:
    """Returns the link from a page in a folder to a file anywhere."""
    try:
        relative = os.path.relpath(path.absolute(), page_folder.absolute())
    except ValueError:  # another drive
        return path.absolute().as_uri()
    return urllib.parse.quote(pathlib.Path(relative).as_posix())


def _frame(name: str, image: JsonObject | None) -> str:
    title = f"<b>{text(name)} <span class=step></span></b>"
    step = f" at step {image['step']}" if image else ""
    address = image["file"] if image else ""
    return f"<figure>{title}{opens_large(address, f'{name} samples{step}'.strip())}</figure>"


def _grid(run: History, step: int, folder: pathlib.Path) -> JsonObject:
    return {"step": step, "file": link(run.grids[step], folder), **read_grid(run.grids[step])}


def _newest(grids: dict[int, JsonObject], step: int) -> JsonObject | None:
    return grids.get(max((own for own in grids if own <= step), default=-1))
