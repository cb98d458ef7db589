import re

import pytest

from flax_sd import cli
from flax_sd.errors import UserError
from flax_sd.reports import comparison
from tests.browser import needs_chromium, values
from tests.made_runs import make_run

LOOK = """() => {
  const slider = document.querySelector(".slides input"), at = [];
  for (const place of [0, 1, 4]) {
    slider.value = place; slider.dispatchEvent(new Event("input"));
    at.push([...document.querySelectorAll(".slides figure")].map((f) =>
      [f.innerText.trim(), f.querySelector("img").src.split("/").slice(-3).join("/")]));
  }
  return { errors, at, labels: plots[0].series.map((s) => s.label), last: plots[0].data[0].at(-1) };
}"""


@pytest.fixture
def runs(tmp_path):
    one = make_run(tmp_path / "one")
    two = make_run(tmp_path / "deep" / "two", 90, every=30, factor=2.0, lora={"rank": 16}, seed=3)
    return one, two


def test_the_table_says_how_they_ended_and_what_differs(runs, tmp_path, capsys):
    out = tmp_path / "pages" / "both.html"
    assert cli.compare([*map(str, runs), "--out", str(out)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["one", "two"] and lines[1] == ["step", "60", "90"]
    assert any(line[:5] == ["held-out", "loss", "0.5223,", "-12.9%", "±"] for line in lines)  # U2
    assert any(line[:6] == ["lowest", "held-out", "loss", "0.5223", "at", "step"] for line in lines)
    assert ["lora.rank", "4", "16"] in lines and ["train.steps", "60", "90"] in lines
    assert not [line for line in lines if line[0] in ("output", "optim.method", "jax")]
    page = out.read_text()
    assert "<td>lora.rank</td><td class=number>4</td><td class=number>16</td>" in page


@pytest.mark.slow
@needs_chromium
def test_curves_and_images_are_side_by_side(runs, tmp_path):
    out = tmp_path / "pages" / "both.html"
    assert cli.compare([*map(str, runs), "--out", str(out)]) == 0
    seen = values(out, LOOK)
    assert seen["errors"] == []
    assert seen["labels"] == ["step", "one", "two"] and seen["last"] == 90
    # The slider has each step at which a run drew; a run that did not shows its newest by then.
    assert seen["at"] == [
        [["one", "one/samples/step-000000.png"], ["two", "two/samples/step-000000.png"]],
        [["one", "one/samples/step-000020.png"], ["two step 0", "two/samples/step-000000.png"]],
        [["one", "one/samples/step-000060.png"], ["two", "two/samples/step-000060.png"]],
    ]


def test_a_long_list_does_not_push_the_others_out_of_sight(tmp_path, capsys):
    name, prompts = "x" * 70, {"prompts": ["a cat"] * 40}
    folders = [make_run(tmp_path / name, sample=prompts), make_run(tmp_path / "b")]
    assert cli.compare([*map(str, folders), "--out", str(tmp_path / "c.html")]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert name in head  # a run's name is whole
    (line,) = [line for line in lines if line.startswith("sample.prompts")]
    assert re.fullmatch(r"sample.prompts +\['a cat', 'a cat'.{32}… +\S.*", line)


def test_runs_of_one_name_go_by_their_paths(tmp_path):
    folders = [make_run(tmp_path / parent / "run") for parent in ("a", "b")]
    runs = comparison.read_all(folders)
    assert list(runs) == [str(folder) for folder in folders]
    assert comparison.different(runs) == []
    assert "Nothing: the options are the same" in comparison.compare_page(runs, tmp_path)
    assert len(comparison.read_all([folders[0], folders[0]])) == 1


def test_every_folder_without_a_run_is_named(runs, tmp_path, capsys):
    wrong = [str(tmp_path / "x"), str(runs[0]), str(tmp_path / "y")]
    assert cli.compare([*wrong, "--out", str(tmp_path / "c.html")]) == 2
    said = capsys.readouterr().err
    assert "/x is not a run's folder" in said and "/y is not a run's folder" in said
    assert not (tmp_path / "c.html").exists()
    with pytest.raises(UserError, match="name the folders"):
        comparison.read_all([])
    assert cli.compare([str(runs[0]), "--out", str(tmp_path)]) == 2


def test_one_place_in_two_spellings_is_no_difference(tmp_path, monkeypatch):
    """F30's sibling: images by their whole path and by a short one, and a run named twice."""
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)
    for name, path in (("a", "pictures/"), ("b", str(tmp_path / "pictures"))):
        make_run(tmp_path / name, data={"path": path})
    runs = comparison.read_all([tmp_path / "a", tmp_path / "a" / ".." / "a", tmp_path / "b"])
    assert list(runs) == ["a", "b"] and comparison.different(runs) == []
