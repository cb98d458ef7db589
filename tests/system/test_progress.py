import io
import re
import time

import pytest
from rich.console import Console

from flax_sd.system.progress import Progress


def capture(terminal):
    out = io.StringIO()
    return out, Progress(Console(file=out, force_terminal=terminal, width=100, color_system=None))


def test_stages_say_how_long_they_took():
    begin = time.monotonic()
    out, progress = capture(False)
    time.sleep(0.3)
    progress.stage("found", "3 images [of 4], 5 captions")
    progress.stage("compiled")
    elapsed = time.monotonic() - begin
    first, second = out.getvalue().splitlines()
    first = re.fullmatch(r" +(\d+\.\d) s  found: 3 images \[of 4\], 5 captions", first)
    second = re.fullmatch(r" +(\d+\.\d) s  compiled", second)
    assert float(first[1]) >= 0.3
    assert float(first[1]) + float(second[1]) <= elapsed + 0.1


def test_a_long_line_is_not_wrapped():
    out, progress = capture(False)
    progress.say("x" * 300)
    assert out.getvalue() == "x" * 300 + "\n"


def test_a_table_has_columns_as_wide_as_they_must_be():
    out, progress = capture(False)
    progress.table([["", "one"], ["steps", "10"]], "<")
    progress.table([["a", "parameters", "trained"], ["all", "1,000", "x" * 100]])
    progress.table([])
    assert out.getvalue().splitlines() == [
        "       one",
        "steps  10",
        f"a    parameters  {'trained':>100}",
        f"all       1,000  {'x' * 100}",
    ]


def test_plain_lines_come_at_intervals_and_at_the_end():
    out, progress = capture(False)
    with progress.loop(50, 10, "step", interval=1000.0) as shown:
        for step in range(11, 51):
            shown.update(step, f"loss {0.5 / step:.4f}", "3.14 images/s")
    lines = out.getvalue().splitlines()
    assert lines == [
        "step 11/50  loss 0.0455  3.14 images/s  0:00:00 passed, -:--:-- left",
        "step 50/50  loss 0.0100  3.14 images/s  0:00:00 passed, 0:00:00 left",
    ]


WORK = "compiling the training step at 8 x 8"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, in which no time of earlier work is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "flax_sd"


def test_what_is_compiled_is_said_before_the_step(cache):
    """U10."""
    out, progress = capture(False)
    with progress.loop(2, name="step"), progress.work(WORK, "once for this shape"):
        assert out.getvalue() == f"{WORK}, once for this shape\n"


def test_on_a_terminal_work_takes_the_place_of_the_bar(cache):
    """And says whole lines: a long name is not cut."""
    out, progress = capture(True)
    with progress.loop(2, name="step") as shown:
        before = len(out.getvalue())
        with progress.work(WORK, "for images that have never been seen in this place and shape"):
            during = out.getvalue()[before:]
        shown.update(1, "loss 1.0000")
        with pytest.raises(KeyboardInterrupt), progress.work(WORK):
            raise KeyboardInterrupt
        assert progress.live is not None
    assert progress.live is None
    removed, _, during = during.partition("\x1b[1A\x1b[2K")
    assert "step 0/2" in removed and WORK not in removed and "step 0/2" not in during
    assert during.count(WORK) == during.count("0:00:00") == 1
    assert "seen in this place" in during and "shape" in during
    assert "step 1/2  loss 1.0000  0:00:00 passed, -:--:-- left" in out.getvalue()
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


def test_work_says_how_long_it_took_last_time(cache, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for seconds, last in [(71.4, ""), (3.0, "; 71 s"), (90.0, "; 71 s"), (1.0, "; 90 s")]:
        out, progress = capture(False)
        with progress.work(WORK, "once"):
            clock[0] += seconds  # 3 s is that of a program that was found on disk
        assert out.getvalue() == f"{WORK}, once{last and last + ' last time on this machine'}\n"
    out, progress = capture(True)
    with progress.work(WORK):
        pass
    assert f"{WORK}; 90 s last time on this machine" in out.getvalue()
    assert "0:00:00" in out.getvalue()


def test_a_line_is_not_worth_it_for_what_takes_seconds_each_time(cache, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for seconds, said in [(20.0, False), (40.0, False), (1.0, True)]:
        out, progress = capture(False)
        with progress.work(WORK):
            clock[0] += seconds
        assert out.getvalue().startswith(WORK) == said


def test_work_that_fails_leaves_no_time(cache):
    _, progress = capture(False)
    with pytest.raises(KeyboardInterrupt), progress.work(WORK):
        raise KeyboardInterrupt
    assert not cache.exists()


def test_the_rate_leaves_the_first_update_out_which_compiles(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    out, progress = capture(False)
    with progress.loop(8, interval=0.0) as shown:
        for done, seconds in ((2, 10.0), (6, 1.0), (8, 1.0)):
            clock[0] += seconds
            shown.update(done, f"{shown.rate(done):.2f} images/s")
    assert out.getvalue().splitlines() == [
        "2/8  0.20 images/s  0:00:10 passed, -:--:-- left",  # nothing else to go by
        "6/8  4.00 images/s  0:00:11 passed, 0:00:00 left",
        "8/8  3.00 images/s  0:00:12 passed, 0:00:00 left",
    ]


def test_a_loop_of_one_update_has_no_time_left():
    out, progress = capture(False)
    with progress.loop(2) as shown:
        shown.update(2)
    assert out.getvalue() == "2/2  0:00:00 passed, 0:00:00 left\n"


def test_a_count_says_how_far_it_is_and_what_is_left(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    out, progress = capture(False)
    with progress.count(30, "encoding images", interval=0.0) as shown:
        for done in (10, 30):
            clock[0] += 100.0
            shown.update(done)
    first, second = out.getvalue().splitlines()
    assert first == "encoding images 10/30  0:03:20 left"
    assert second == "encoding images 30/30  0:00:00 left"


def test_a_count_is_quiet_where_the_work_is_short_and_where_there_is_none():
    out, progress = capture(False)
    with progress.count(30, "encoding images") as shown:
        shown.update(30)
    with progress.count(0, "encoding captions"):
        pass
    assert out.getvalue() == ""
    out, progress = capture(True)
    with progress.count(0, "encoding captions"):
        pass
    assert out.getvalue() == ""


def test_a_count_on_a_terminal_is_a_bar_that_goes_away():
    out, progress = capture(True)
    with progress.count(2, "encoding images") as shown:
        shown.update(1)
        shown._bar.refresh()
    text = out.getvalue()
    assert "encoding images 1/2  0:00:00 left" in text and text.endswith("\x1b[1A\x1b[2K")


def test_interval_zero_shows_every_step_with_the_time_left(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    out, progress = capture(False)
    with progress.loop(10_000, interval=0.0) as shown:
        for step in (1, 2, 3):
            shown.update(step)
            clock[0] += 0.5
    assert out.getvalue().splitlines() == [
        "1/10000  0:00:00 passed, -:--:-- left",
        "2/10000  0:00:00 passed, 1:23:19 left",
        "3/10000  0:00:01 passed, 1:23:18 left",
    ]


def test_a_terminal_gets_a_bar_and_messages_above_it():
    out, progress = capture(True)
    with progress.loop(4, name="step") as shown:
        shown.update(1, "loss 0.2500")
        progress.say("saved step 1")
        shown.update(4, "loss 0.1250")
    text = out.getvalue()
    assert "0/4" in text and "saved step 1\n" in text and "━" in text
    assert "step 4/4  loss 0.1250  0:00:00 passed, 0:00:00 left" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is left visible


FIGURES = ("loss 0.0506", "lr 1.00e-04", "3.21 it/s", "12.84 images/s")
BELOW = ["grad norm 0.31", "device 12.3 GB", "host 3.2 GB"]


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (
            120,
            "step 1500/15000  loss 0.0506  lr 1.00e-04  3.21 it/s  12.84 images/s  "
            "0:00:00 passed, -:--:-- left|grad norm 0.31  device 12.3 GB  host 3.2 GB",
        ),
        (
            80,
            "step 1500/15000  loss 0.0506  lr 1.00e-04  3.21 it/s  12.84 images/s|"
            "0:00:00 passed, -:--:-- left  grad norm 0.31  device 12.3 GB  host 3.2 GB",
        ),
        (
            40,
            "step 1500/15000  loss 0.0506|lr 1.00e-04  3.21 it/s  12.84 images/s|"
            "0:00:00 passed, -:--:-- left|grad norm 0.31  device 12.3 GB|host 3.2 GB",
        ),
    ],
)
def test_a_line_is_broken_between_two_figures(width, shown):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    with Progress(console).loop(15_000, name="step") as display:
        display.update(1500, *FIGURES, below=lambda: BELOW)
    plain = re.sub(r"\x1b\[[\d?]*[a-zA-Z]", "", out.getvalue())
    lines = plain.rpartition("\r━" if width == 120 else "\rstep")[2].splitlines()
    room = 11 if width == 120 else 0  # for the bar
    lines[0] = ("━" if room else "step") + lines[0]
    assert "|".join(line[room:].rstrip() for line in lines) == shown
    assert max(map(len, lines)) <= width and ("━" in plain) == bool(room)


@pytest.mark.parametrize("verbose", [False, True])
def test_where_more_is_said_a_plain_line_has_a_second_one(verbose):
    out = io.StringIO()
    with Progress(Console(file=out, width=100), verbose=verbose).loop(1, name="step") as display:
        display.update(1, "loss 0.1", below=lambda: BELOW)
    first, *more = out.getvalue().splitlines()
    assert first == "step 1/1  loss 0.1  0:00:00 passed, 0:00:00 left"
    assert more == ["  grad norm 0.31  device 12.3 GB  host 3.2 GB"] * verbose


def test_figures_below_are_not_asked_for_at_each_step(monkeypatch):
    clock, asked = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    _, progress = capture(True)
    with progress.loop(9) as display:
        for step in range(1, 9):
            clock[0] += 0.3
            display.update(step, below=lambda: asked.append(clock[0]) or BELOW)
    assert len(asked) == 2


def test_other_processes_are_quiet():
    out = io.StringIO()
    progress = Progress(Console(file=out, quiet=True))
    with progress.loop(1) as shown:
        shown.update(1)
    progress.stage("done")
    assert out.getvalue() == ""
