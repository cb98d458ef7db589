import io
import time

from rich.console import Console

from flax_sd.generation.meter import Meter
from flax_sd.system.progress import Progress


def show(counts, *, terminal):
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=terminal, width=100))
    with Meter(progress, sum(counts)).shown() as meter:
        for count in counts:
            meter.add(count)
    return out.getvalue()


def test_a_log_gets_the_first_and_the_last_line():
    lines = show([2, 2, 1], terminal=False).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("2/5  ") and lines[0].endswith(" images/s  -:--:-- left")
    assert lines[1].startswith("5/5  ") and lines[1].endswith("0:00:00 left")


def test_a_terminal_gets_a_bar():
    text = show([2, 1], terminal=True)
    assert "3/3" in text and "images/s" in text and "━" in text


def test_the_rate_leaves_the_compiling_batch_out():
    meter = Meter(Progress(Console(file=io.StringIO())), 8)
    now = time.monotonic()
    meter._start = now - 10
    meter.add(2)
    assert 0.15 < meter.rate(time.monotonic()) < 0.21  # nothing else to go by
    meter._first = 2, now - 1
    meter.add(4)
    assert 2 < meter.rate(time.monotonic()) < 4.1
