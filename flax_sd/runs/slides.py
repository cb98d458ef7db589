"""Pictures over steps, with a slider."""

from collections.abc import Sequence
from typing import Any

from flax_sd import chart, page


def slides(places: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Returns a slider and one picture a name; without scripts, the last ones are seen.

    Args:
      places: {"step": n, "pictures": […]} for each place of the slider, the last of which is shown
        first; a picture is {"step": its own, "file": its address}, or None.
      names: one a picture, which may be empty.
    """
    last = len(places) - 1
    frames = [
        f"<figure><b>{page.text(name)} <span class=step></span></b>"
        f'<img alt="samples" src="{page.text(picture["file"] if picture else "")}"></figure>'
        for name, picture in zip(names, places[-1]["pictures"], strict=True)
    ]
    return (
        f'<div class="slides"><div class="control"><output>step {places[-1]["step"]}</output>'
        f'<input type="range" aria-label="step" min="0" max="{last}" value="{last}">'
        f'<span class="quiet">← →</span></div><div class="frames">{"".join(frames)}</div>'
        f"{chart.embedded(list(places))}</div>"
    )
