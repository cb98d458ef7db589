"""The rows of the table: who wins, and by how much."""

import pytest

from flax_sd.commands.bench import starts, table
from flax_sd.commands.bench.starts import Figures


@pytest.mark.parametrize(
    ("ours", "theirs", "unit", "words"),
    [
        (6.2, 2.0, "s", "3.10x slower"),
        (2.0, 6.2, "s", "3.10x faster"),
        (2.0, 2.03, "s", "equal"),
        (2.0, 6.2, "per s", "3.10x slower"),
        (6.2, 2.0, "per s", "3.10x faster"),
        (120.0, 2.0, "GiB", "60x more"),
        (1.0, 1.5, "GiB", "1.50x less"),
        (1.0, None, "s", ""),
        (None, 1.0, "GiB", ""),
    ],
)
def test_a_loss_is_said_with_its_size(ours, theirs, unit, words):
    assert table.comparison(ours, theirs, unit) == words


def test_the_rows_of_a_case():
    cold, warm = Figures(40.0, 50.0, 3.0, "cpu"), Figures(10.0, 9.0, 2.0, "cpu", 0.5)
    theirs = Figures(20.0, 12.5, 1.0, "cpu", 0.25)
    given = table.rows(("first image", "images"), 4, cold, warm, theirs)
    assert table.padded(given) == [
        ["", "flax_sd", "diffusers", "flax_sd is"],
        ["first image, cold, s", "40 (CPU 50)", "20 (CPU 12.5)", "2.00x slower"],
        ["first image, warm, s", "10 (CPU 9)", "20 (CPU 12.5)", "2.00x faster"],
        ["images, per s", "8", "16", "2.00x slower"],
        ["peak memory, images, GiB", "2", "1", "2.00x more"],
    ]
    alone = table.rows(("first image", "images"), 4, cold, warm, None)
    assert [row.cells()[2:] for row in alone] == [["–", ""]] * 4
    assert alone[0].record() == {
        "work": "first image, cold, s",
        "flax_sd": 40.0,
        "diffusers": "",
        "flax_sd, CPU s": 50.0,
        "diffusers, CPU s": "",
        "flax_sd is": "",
    }


def test_the_median_of_repeats():
    several = [
        Figures(first, 1.0, 2.0, "cpu", again)
        for first, again in ((3.0, 7.0), (1.0, 9.0), (2.0, 8.0))
    ]
    assert starts.median(several) == Figures(2, 1.0, 2.0, "cpu", 8)
    assert starts.median([Figures(3.0, 1.0, None, "cpu")]) == Figures(3, 1.0, None, "cpu", None)
