"""The charts of one run, or of several in the same axes."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from flax_sd.reports.chart import Chart, Line, Number
from flax_sd.reports.confidence_interval import said_change
from flax_sd.run_folder.history import History, Row
from flax_sd.run_folder.layout import BASE_LOSS, TRAIN_SUBSET, VAL_LOSS

SMOOTHED = 0.1  # share of the logged steps over which the smoothed loss is a mean
MIN_SMOOTHED = 5  # of the logged steps, likewise
POINTS = 2000  # of a line, at most
STEPS_SHOWN = 6  # curves over the timesteps, at most
PALE = 0.5

Runs = Mapping[str, History]  # by the name that a legend has


def charts(runs: Runs) -> list[Chart]:
    """Returns all charts; lines are named by figure for one run, by run for several."""
    return [
        Chart("Training loss", _training(runs), wide=True),
        Chart(
            "Held-out loss",
            _held_out(runs, [VAL_LOSS, TRAIN_SUBSET]),
            "Images that are not trained on, at fixed noise. The band is the 95 % interval of "
            "the change since step 0, image by image."
            + (f" {TRAIN_SUBSET}: images that are trained on." if _has(runs, TRAIN_SUBSET) else ""),
        ),
        Chart(
            "Loss on what the model knew before",
            _held_out(runs, [BASE_LOSS]),
            "Where it rises, the run makes the model forget.",
        ),
        Chart(
            "Held-out loss by timestep",
            _by_timestep(runs),
            "Noisier to the right.",
            across="t",
            log=True,
        ),
        Chart("Learning rate", _logged(runs, {"lr": "lr"})),
        Chart("Gradient norm", _logged(runs, {"grad_norm": "norm"}), log=True),
        Chart("Images per second", _logged(runs, {"images_per_second": "images/s"})),
        Chart(
            "Memory, GB",
            _logged(runs, {"device_gb": "device", "host_gb": "process"}),
            "The most that was taken so far.",
        ),
    ]


def smoothed(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Returns the mean over the values around each; at the ends, over those that exist.

    What is not finite counts for nothing; where nothing is finite, the mean is nan.
    """
    half = min(max(MIN_SMOOTHED, int(len(values) * SMOOTHED)), len(values) - 1) // 2
    kernel, there = np.ones(2 * half + 1), np.isfinite(values)
    total = np.convolve(np.where(there, values, 0), kernel, "same")
    count = np.convolve(there, kernel, "same")
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _training(runs: Runs) -> list[Line]:
    lines = []
    for colour, (name, run) in enumerate(runs.items()):
        steps, values = run.series("loss")
        if not steps:
            continue
        mean = smoothed(np.array(values, np.float64)).tolist()
        if len(runs) == 1:
            raw = Line("each step logged", *thinned(steps, values), strength=PALE, dots=True)
            lines.append(raw)
        label = "smoothed" if len(runs) == 1 else name
        lines.append(Line(label, *thinned(steps, mean), colour=colour))
    return lines


def latest(run: History, name: str) -> Number | None:
    """Returns a figure of metrics.jsonl at the end of its smoothed curve, or unsmoothed if it is a
    peak."""
    values = [value for value in run.series(name)[1] if value is not None]
    if name.endswith("_gb") or not values:
        return max(values, default=None)
    return float(smoothed(np.array(values, np.float64))[-1])


def _held_out(runs: Runs, sets: Sequence[str]) -> list[Line]:
    lines = []
    for colour, (name, run) in enumerate(runs.items()):
        for place, which in enumerate(sets if len(runs) == 1 else sets[:1]):
            if line := held_out(run, which):
                label = which if len(runs) == 1 else name
                lines.append(line._replace(label=label, colour=colour + place))
    return lines


def held_out(run: History, which: str) -> Line | None:
    """Returns the loss of a set with the band of its change since step 0, or the values as
    evaluated."""
    rows = [row for row in run.validation if row.get("set") == which and row["mean"] is not None]
    if not rows:
        steps, values = run.series(which)
        return Line(which, steps, values) if steps else None
    means = [row["mean"] for row in rows]
    halves = [0 if row["step"] == 0 else row.get("change_ci95") for row in rows]
    edges = [
        [
            None if half is None else mean + sign * half
            for mean, half in zip(means, halves, strict=True)
        ]
        for sign in (-1, 1)
    ]
    return Line(which, [row["step"] for row in rows], means, (edges[0], edges[1]))


def change_since_start(line: Line, place: int = -1) -> str:
    """Returns the change of a held-out loss since step 0 in words; nothing if there is none."""
    first, value = line.y[0], line.y[place]
    if len(line.y) < 2 or not first or value is None:
        return ""
    upper = line.band[1][place] if line.band else None
    return said_change(first, value, None if upper is None else upper - value)


def lowest_held_out(run: History) -> str:
    """Returns the evaluation after step 0 with the lowest loss; nothing if there are not two."""
    line = held_out(run, VAL_LOSS)
    found = [(y, i) for i, y in enumerate(line.y) if y is not None and i] if line else []
    if line is None or len(found) < 2:
        return ""
    value, place = min(found)
    return f"{value:.4f} at step {line.x[place]}, {change_since_start(line, place)}"


def _by_timestep(runs: Runs) -> list[Line]:
    """Returns several steps of one run, or the last of each of several."""
    lines = []
    for colour, (name, run) in enumerate(runs.items()):
        measured = {row.get("set") for row in run.validation if row.get("bands")}
        which = VAL_LOSS if VAL_LOSS in measured else BASE_LOSS
        rows = [row for row in run.validation if row.get("set") == which and row.get("bands")]
        chosen = spread(rows, STEPS_SHOWN) if len(runs) == 1 else rows[-1:]
        for place, row in enumerate(chosen, 1):
            label = f"step {row['step']}" if len(runs) == 1 else name
            strength = 0.25 + 0.75 * place / len(chosen)
            lines.append(_bands(row)._replace(label=label, colour=colour, strength=strength))
    return lines


def _bands(row: Row) -> Line:
    """Returns an evaluation's means over the middles of its bands of timesteps."""
    middles = [(first + last) / 2 for first, last, _ in row["bands"]]
    return Line("", middles, [mean for *_, mean in row["bands"]])


def _logged(runs: Runs, figures: Mapping[str, str]) -> list[Line]:
    """Returns figures of metrics.jsonl with their labels; of several runs the first that each
    has."""
    lines, alone = [], len(runs) == 1
    for colour, (name, run) in enumerate(runs.items()):
        there = [figure for figure in figures if run.series(figure)[0]]
        for place, figure in enumerate(there if alone else there[:1]):
            label = figures[figure] if alone else name
            lines.append(Line(label, *thinned(*run.series(figure)), colour=colour + place))
    return lines


def thinned(
    steps: Sequence[int], values: Sequence[Number | None]
) -> tuple[list[int], list[Number | None]]:
    """Returns evenly chosen values of many, including the last."""
    places = spread(range(len(steps)), POINTS)
    return [steps[i] for i in places], [values[i] for i in places]


def spread(things: Sequence, count: int) -> list:
    """Returns at most `count` values, evenly chosen, including the first and the last."""
    if len(things) <= count:
        return list(things)
    return [things[i * (len(things) - 1) // (count - 1)] for i in range(count)]


def _has(runs: Runs, which: str) -> bool:
    return any(row.get("set") == which for run in runs.values() for row in run.validation)
