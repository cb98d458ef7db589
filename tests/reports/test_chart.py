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


def test_a_chart_has_a_text():
    falls = Line("a", [0, 5, 9], [2.0, 0.123456789, 1.0])
    gaps = Line("b", [1, 2], [None, 3.0])
    (shown,) = embedded(chart.charts([Chart("Loss", [falls, gaps, Line("c", [1], [None])])]))
    assert shown["text"] == (
        "Loss. a: 3 values, from 2.0 at step 0 to 1.0 at step 9; the lowest is 0.12346 at step 5. "
        "b: 3.0 at step 2."
    )


def test_a_name_cannot_end_the_script():
    page = json_inside(["</script><script>alert(1)", "caf\udce9"])
    assert page.count("</script>") == 1
    assert embedded(page) == [["</script><script>alert(1)", "caf?"]]


def test_the_library_comes_with_its_notice():
    assert "Permission is hereby granted" in chart.head() and "Leon Sorokin" in chart.head()
