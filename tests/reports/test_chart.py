import json
import re

from flax_sd.reports import chart
from flax_sd.reports.chart import Chart, Line
from flax_sd.reports.html import embedded as json_inside


def embedded(page):
    """The JSON values inside a page."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', page)
    return [json.loads(text) for text in found]


def test_numbers_are_short_and_what_is_not_finite_is_nothing():
    line = Line("a", [0, 123456], [0.123456789, float("nan")], ([None, 1], [2, float("inf")]))
    (shown,) = embedded(chart.charts([Chart("x", [line])]))
    (line,) = shown["lines"]
    assert line["x"] == [0, 123456] and line["y"] == [0.12346, None]
    assert line["band"] == [[None, 1], [2, None]]


def test_charts_and_lines_without_values_are_left_out():
    full, empty = Line("full", [1], [2.0]), Line("empty", [], [])
    shown = embedded(chart.charts([Chart("a", [empty]), Chart("b", [empty, full]), Chart("c", [])]))
    assert [(each["title"], [x["label"] for x in each["lines"]]) for each in shown] == [
        ("b", ["full"])
    ]


def test_a_name_cannot_end_the_script():
    page = json_inside(["</script><script>alert(1)", "caf\udce9"])
    assert page.count("</script>") == 1
    assert embedded(page) == [["</script><script>alert(1)", "caf?"]]


def test_the_library_comes_with_its_notice():
    assert "Permission is hereby granted" in chart.head() and "Leon Sorokin" in chart.head()
