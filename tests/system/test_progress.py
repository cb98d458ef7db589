import io
import re
import time

from rich.console import Console

from flax_sd.system.progress import Progress


def capture(terminal):
    out = io.StringIO()
    return out, Progress(Console(file=out, force_terminal=terminal, width=100, color_system=None))


def test_stages_say_how_long_they_took():
    begin = time.monotonic()
    out, progress = capture(False)
    time.sleep(0.3)
    progress.stage("found", "3 pictures [of 4], 5 captions")
    progress.stage("compiled")
    elapsed = time.monotonic() - begin
    first, second = out.getvalue().splitlines()
    first = re.fullmatch(r" +(\d+\.\d) s  found: 3 pictures \[of 4\], 5 captions", first)
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
    with progress.steps(total=50, done=10, interval=1000.0) as steps:
        for step in range(11, 51):
            steps.update(step, 0.5 / step, {"images_per_second": 3.14159})
    lines = out.getvalue().splitlines()
    assert lines == [
        "step 11/50  loss 0.0455  3.14 images/s  -:--:-- left",
        "step 50/50  loss 0.0100  3.14 images/s  0:00:00 left",
    ]


def test_what_is_compiled_is_said_before_the_step():
    """U10."""
    out, progress = capture(False)
    with progress.steps(total=2) as steps:
        steps.compiling("the training step at 8 x 8")
    assert out.getvalue() == "compiling the training step at 8 x 8\n"
    out, progress = capture(True)
    with progress.steps(total=2) as steps:
        steps.compiling("the training step at 8 x 8")
        steps.update(1, 1.0, {"images_per_second": 2.0})
    shown = out.getvalue()
    assert "0/2 compiling the training step at 8 x 8" in shown and "1/2 loss 1.0000" in shown


def test_utilisation_and_waiting_are_shown_where_known():
    out, progress = capture(False)
    with progress.steps(total=2, interval=0.0) as steps:
        steps.update(1, 1.0, {"images_per_second": 2.0, "wait_share": 0.004})
        steps.update(2, 1.0, {"images_per_second": 2.0, "wait_share": 0.25, "mfu": 0.451})
    first, second = out.getvalue().splitlines()
    assert first == "step 1/2  loss 1.0000  2.00 images/s  -:--:-- left"
    assert "2.00 images/s  MFU 45%  waits for pictures 25%  " in second


def test_a_count_says_how_far_it_is_and_what_is_left():
    out, progress = capture(False)
    with progress.count(30, "encoding pictures", interval=0.0) as shown:
        time.sleep(0.2)
        shown.advance(10)
        shown.advance(20)
    first, second = out.getvalue().splitlines()
    assert first == "encoding pictures 10/30  0:00:00 left"
    assert second == "encoding pictures 30/30  0:00:00 left"


def test_a_count_is_quiet_where_the_work_is_short_and_where_there_is_none():
    out, progress = capture(False)
    with progress.count(30, "encoding pictures") as shown:
        shown.advance(30)
    with progress.count(0, "encoding captions"):
        pass
    assert out.getvalue() == ""
    out, progress = capture(True)
    with progress.count(0, "encoding captions"):
        pass
    assert out.getvalue() == ""


def test_a_count_on_a_terminal_is_a_bar_that_goes_away():
    out, progress = capture(True)
    with progress.count(2, "encoding pictures") as shown:
        shown.advance(1)
        shown._bar.refresh()
    assert "1/2" in out.getvalue() and "encoding pictures" in out.getvalue()


def test_interval_zero_shows_every_step_with_the_time_left():
    out, progress = capture(False)
    with progress.steps(total=10_000, interval=0.0) as steps:
        for step in (1, 2, 3):
            steps.update(step, 1.0, {"images_per_second": 1.0})
            time.sleep(0.1)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    minutes = int(re.search(r"0:(\d\d):\d\d left", lines[2]).group(1))
    assert 16 <= minutes <= 50  # 10 thousand steps of 0.1 s and a busy machine


def test_a_terminal_gets_a_bar_and_messages_above_it():
    out, progress = capture(True)
    with progress.steps(total=4) as steps:
        steps.update(1, 0.25, {"images_per_second": 2.0})
        progress.say("saved step 1")
        steps.update(4, 0.125, {"images_per_second": 2.0})
    text = out.getvalue()
    assert "saved step 1\n" in text
    assert "4/4 loss 0.1250  2.00 images/s  0:00:00 left" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is left visible


def test_other_processes_are_quiet():
    out = io.StringIO()
    progress = Progress(Console(file=out, quiet=True))
    with progress.steps(total=1) as steps:
        steps.update(1, 1.0, {"images_per_second": 1.0})
    progress.stage("done")
    assert out.getvalue() == ""
