"""Saved rows come back as tables with their origin, and as a chart."""

import sys
import xml.etree.ElementTree as ET

import pytest

from tests.benchmarks.conftest import ROOT, parse

ROW = {"work": "unet & more", "flax_sd, s": [1.0, 3.0, 2.0], "ratio of time": 0.5}
MODULES = ROOT / "benchmarks" / "against_torch"
PAGE = "# Title\n\nProse.\n\n<!-- results -->\nold\n<!-- /results -->\n\nMore prose.\n"


@pytest.fixture
def save(monkeypatch, tmp_path):
    from benchmarks.common import rows

    def save(name, row, *arguments):
        monkeypatch.setattr(sys, "argv", [str(MODULES / f"{name}.py"), *arguments, "--save"])
        kept = rows.Rows()
        kept.add(row)
        kept.save(name, tmp_path / "results")

    return save


@pytest.fixture
def page(tmp_path):
    from benchmarks import report

    path = tmp_path / "performance.md"
    path.write_text(PAGE)

    def render():
        report.main(path, tmp_path / "results")
        return path.read_text()

    return render


def test_the_page_keeps_its_prose_and_shows_the_rows(save, page, tmp_path):
    save("speed", ROW, "unet", "--batch", "1")
    save("speed", {**ROW, "work": "vae", "ratio of memory": 1.25}, "vae")
    text = page()
    assert text.startswith("# Title\n\nProse.\n\n<!-- results -->\n")
    assert text.endswith("<!-- /results -->\n\nMore prose.\n") and "old" not in text
    assert (
        "python -m benchmarks.against_torch.speed unet --batch 1\n" in text and "--save" not in text
    )
    for part in ("jax 0.", "torch 2.", " cores, "):
        assert part in text
    shown = {row["work"]: row for row in parse(text)}
    assert shown["unet & more"]["flax_sd, s"] == "2 (1–3)"
    assert shown["vae"]["ratio of memory"] == "1.25"
    assert page() == text


def test_a_command_that_runs_again_replaces_its_rows(save, page):
    save("speed", ROW, "unet")
    save("speed", {**ROW, "work": "again"}, "unet")
    assert [row["work"] for row in parse(page())] == ["again"]


def test_the_chart(save, page, tmp_path):
    save("speed", ROW)
    save("speed", {**ROW, "work": "far", "ratio of time": 12.0, "ratio of memory": 1.0}, "far")
    save("start", {"work": "torch", "ratio of time": ""})
    page()
    chart = ET.parse(tmp_path / "performance.svg")
    texts = [element.text for element in chart.iter() if element.tag.endswith("text")]
    assert "unet & more" in texts and "12.00" in texts and "torch" not in texts
    bars = [element for element in chart.iter() if element.tag.endswith("rect")]
    assert len(bars) == 3
    width = float(chart.getroot().get("width"))
    assert all(float(bar.get("x")) + float(bar.get("width")) < width for bar in bars)


def test_no_results(page):
    with pytest.raises(SystemExit, match="--save"):
        page()


@pytest.mark.parametrize(
    ("value", "shown"), [(2.0, "2"), (0.1234, "0.123"), (12345.6, "12,346"), (3e-7, "3e-07")]
)
def test_numbers(value, shown):
    from benchmarks.common import rows

    assert rows.cell(value) == rows.cell([value]) == shown
