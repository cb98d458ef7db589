import re

import numpy as np
import pytest
from rich.console import Console

from flax_sd.reports import run_report
from flax_sd.run_folder import history, layout
from flax_sd.system.progress import Progress
from tests.browser import DARK, needs_chromium, values
from tests.made_runs import make_run

LOOK = """() => {
  const slider = document.querySelector(".slides input"), image = document.querySelector("img");
  const keyed = [], first = [slider.value, image.src.split("/").pop(), image.naturalWidth];
  for (const key of ["ArrowLeft", "ArrowLeft", "ArrowRight"]) {
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    keyed.push([document.querySelector("output").textContent, image.src.split("/").pop()]);
  }
  slider.value = 0; slider.dispatchEvent(new Event("input"));
  const box = document.querySelector(".chart input");
  box.click();
  const band = plots[1].series.map((s) => s.show);
  plots[1].setSeries(1, { show: false });
  return {
    errors, first, keyed, moved: image.src.split("/").pop(),
    titles: [...document.querySelectorAll(".chart h3")].map((e) => e.firstChild.textContent),
    loss: plots[0].data, held: plots[1].data, log: plots[0].scales.y.distr,
    hidden: plots[1].series.map((s) => s.show),
    widths: plots.map((p) => p.width), wide: document.documentElement.scrollWidth,
    paper: getComputedStyle(document.body).backgroundColor, line: plots[0].series[2].stroke(),
    reloads: !!document.querySelector("input.reload"),
  };
}"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("runs") / "my run")
    run_report.LiveReport(folder, 60, Progress(Console(quiet=True))).write("finished")
    return folder / layout.REPORT


@pytest.fixture(scope="module")
def seen(page):
    return values(page, LOOK)


@pytest.mark.slow
@needs_chromium
def test_the_page_opens_without_errors(seen):
    assert seen["errors"] == [] and not seen["reloads"]
    assert seen["wide"] <= 800 and min(seen["widths"]) > 200
    assert "Memory, GB" in seen["titles"] and "Loss on what" not in " ".join(seen["titles"])


@pytest.mark.slow
@needs_chromium
def test_the_charts_hold_the_figures(seen):
    steps, raw, smooth = seen["loss"]
    assert steps == list(range(2, 61, 2))
    np.testing.assert_allclose(raw, np.exp(-np.array(steps) / 40), rtol=1e-4)
    assert smooth[0] > smooth[-1]
    steps, mean, low, high = seen["held"][:4]
    assert steps == [0, 20, 40, 60] and low[0] == mean[0]
    np.testing.assert_allclose(np.subtract(high[1:], low[1:]), 0.02, rtol=1e-2)
    assert mean[0] == 0.6
    assert seen["log"] == 3  # after a click
    assert seen["hidden"][1:4] == [False] * 3 and seen["hidden"][4] is True


@pytest.mark.slow
@needs_chromium
def test_slider_and_keys_change_the_image(seen):
    assert seen["first"] == ["3", "step-000060.png", 96]
    assert seen["keyed"] == [[f"step {n}", f"step-0000{n}.png"] for n in (40, 20, 40)]
    assert seen["moved"] == "step-000000.png"


@pytest.mark.slow
@needs_chromium
def test_a_dark_page_has_other_colours(page, seen):
    dark = values(page, LOOK, DARK)
    assert dark["errors"] == []
    assert dark["paper"] == "rgb(24, 24, 24)" and dark["line"] != seen["line"]


def test_what_is_beside_the_curves(tmp_path):
    folder = make_run(tmp_path / "a", seed=7)
    (folder / "data_report.html").write_text("")
    (folder / "samples" / "before_after.png").write_bytes(b"")
    text = run_report.report_page(history.read(folder), 60, "finished")
    rows = re.findall(r"<tr><td>(seed|train\.steps|output|train)</td>(.*?)</tr>", text)
    numbers = [(name, re.findall(r">([^<>]+)</td>", cells)) for name, cells in rows]
    assert numbers[0] == ("train", ["bundled:style", "9", "10", "1", "abc"])
    assert numbers[1:] == [("train.steps", ["60", "1000"]), ("seed", ["7", "0"])]
    assert 'href="data_report.html"' in text and 'src="samples/before_after.png"' in text
    assert "learning_rate: 0.0001" in text.split("All options")[1]  # the whole config
    assert "0.10.2" in text.split("Made with")[1]
    assert "<b>−12.9 % ± 1.7 %</b>" in text
    assert "Lowest held-out loss: 0.5223 at step 60, −12.9 % ± 1.7 % since step 0." in text
    assert 'class="reload"' not in text


def test_a_change_whose_interval_covers_zero_is_no_result(tmp_path):
    run = history.read(make_run(tmp_path / "a"))
    rows = [row | {"change_ci95": row["change_ci95"] and 0.1} for row in run.validation]
    text = run_report.report_page(run._replace(validation=rows), 60, "finished")
    assert "<b>no measurable change</b>" in text
    doubt = "no measurable change (−12.9 % ± 16.7 %)"
    assert f"Lowest held-out loss: 0.5223 at step 60, {doubt} since step 0." in text


@pytest.mark.parametrize(
    ("state", "words"),
    [("training", "step 60 of 200"), ("stopped", "Stopped after step 60 of 200")],
)
def test_a_page_follows_its_run_while_it_trains(tmp_path, state, words):
    text = run_report.report_page(history.read(make_run(tmp_path / "a")), 200, state)
    assert words in text and "width:30.0%" in text
    assert ('class="reload"' in text) == (state == "training")


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    folder = make_run(tmp_path / "a", 1)
    for name in ("metrics.jsonl", "validation.jsonl", "environment.json"):
        (folder / name).unlink()
    for path in (folder / "samples").iterdir():
        path.unlink()
    text = run_report.report_page(history.read(folder), 1, "training")
    assert "step 0 of 1" in text and 'class="slides"' not in text


def test_skipped_steps_are_named_with_their_images(tmp_path):
    folder = make_run(tmp_path / "a")
    assert "Skipped" not in run_report.report_page(history.read(folder), 60, "finished")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 33, "loss": null, "skipped": 1, "pictures": ["a <1>.png", "b.png"]}\n')
    text = run_report.report_page(history.read(folder), 60, "finished")
    assert "<td>a &lt;1&gt;.png, b.png</td>" in text.split("Skipped steps")[1]


def test_it_is_written_no_more_often_than_it_may(tmp_path, monkeypatch):
    folder, clock = make_run(tmp_path / "a"), [1000.0]
    monkeypatch.setattr(run_report.time, "monotonic", lambda: clock[0])
    page = folder / layout.REPORT
    live = run_report.LiveReport(folder, 60, Progress(Console(quiet=True)))

    def written_after(seconds):
        page.unlink(missing_ok=True)
        clock[0] += seconds
        live.refresh()
        return page.exists()

    assert written_after(0)
    assert not written_after(run_report.EVERY - 1) and written_after(1)
    slow = 1.0

    def read(folder, read=history.read):
        clock[0] += slow
        return read(folder)

    monkeypatch.setattr(run_report.history, "read", read)
    assert written_after(run_report.EVERY)
    assert not written_after(slow / run_report.MAX_SHARE_OF_TIME - 1) and written_after(1)


def test_a_page_that_cannot_be_written_does_not_end_the_run(tmp_path, capsys):
    folder = make_run(tmp_path / "a")
    (folder / layout.REPORT).mkdir()
    run_report.LiveReport(folder, 60, Progress()).refresh()
    assert "warning: " in capsys.readouterr().out
