"""check-data and the same check at the start of a run."""

import json
import shutil

import pytest
from PIL import Image

from flax_sd import cli
from flax_sd.run_folder.layout import DATA_REPORT, QUARANTINE
from tests.browser import needs_chromium, values
from tests.data.messy import messy_folder

LEFT_OUT = ["cut off.jpg", "empty.png", "latin.png", "no caption.png", "not an image.png"]


@pytest.fixture
def messy(tmp_path):
    folder = tmp_path / "messy"
    folder.mkdir()
    messy_folder(folder)
    return folder


@pytest.fixture
def checked(config_file, tmp_path, capsys):
    """Runs the command; its status, its folder and what it printed."""

    def run(*flags):
        args = [str(config_file), "--output", str(tmp_path / "run"), *map(str, flags)]
        return cli.check_data(args), tmp_path / "run", capsys.readouterr()

    return run


def quarantined(folder):
    return [json.loads(line) for line in (folder / QUARANTINE).read_text().splitlines()]


def test_a_messy_folder(checked, messy):
    before = sorted((p.name, p.read_bytes()) for p in messy.iterdir())
    status, folder, shown = checked("--data.path", messy)
    assert status == 1
    assert sorted(row["file"] for row in quarantined(folder)) == LEFT_OUT
    for row in quarantined(folder):
        assert row["set"] == str(messy) and f"  {row['file']}: {row['reason']}" in shown.out
    assert "duplicate (2)" in shown.out and "long caption (" not in shown.out  # by CLIP it fits
    page = (folder / DATA_REPORT).read_text("utf-8")
    assert "moves.gif" in page and "is not UTF-8" in page
    assert sorted((p.name, p.read_bytes()) for p in messy.iterdir()) == before


def test_a_good_folder(checked):
    status, folder, shown = checked()
    assert status == 0 and "left out" not in shown.out and quarantined(folder) == []
    assert str(folder / DATA_REPORT) in shown.out


def test_captions_are_counted_in_tokens(checked, messy):
    (messy / "wordy.txt").write_text("cat " * 75 + "tail")
    _, _, shown = checked("--data.path", messy)
    assert "wordy.png: not read: 'tail'" in shown.out


def test_the_report_is_written_where_a_run_would_stop(checked, messy):
    status, folder, _ = checked("--data.path", messy, "--data.on_bad", "stop")
    assert status == 1 and (folder / DATA_REPORT).is_file()


def test_held_out_images_that_are_trained_on_are_named(checked, images, tmp_path):
    held_out = tmp_path / "held out"
    held_out.mkdir()
    shutil.copy(images / "3.png", held_out / "mine.png")
    Image.new("RGB", (40, 40)).save(held_out / "new.png")
    for name in ("mine", "new"):
        (held_out / f"{name}.txt").write_text("x")
    status, _, shown = checked("--data.held_out", held_out)
    assert status == 0 and "in two sets (1)" in shown.out
    assert "  mine.png: shows the same as 3.png" in shown.out


@needs_chromium
def test_the_page_shows_its_images(checked, messy):
    _, folder, _ = checked("--data.path", messy)
    broken = "[...document.images].filter(i => !i.naturalWidth).length"
    rows = "[...document.querySelectorAll('details:not([open]) tr')].map(row => row.cells.length)"
    found = values(folder / DATA_REPORT, f"() => [document.images.length, {broken}, {rows}]")
    assert found[0] > 0 and found[1] == 0
    assert len(found[2]) > 1 and set(found[2]) == {4}  # folded, and a heading over it


def test_a_run_says_the_same_and_goes_on(train, checked, messy):
    checked("--data.path", messy)  # its files in the run's folder are no hindrance
    run = train("run", "--data.path", messy, "--train.steps", 2)
    assert run.status == 0, run.err
    assert f"; left out {len(LEFT_OUT)}, " in run.out and ", duplicate 2, " in run.out
    assert "data_report.html in the run's folder shows" in run.out
    assert (run.folder / DATA_REPORT).is_file()
    assert sorted(row["file"] for row in quarantined(run.folder)) == LEFT_OUT
    for name in LEFT_OUT:
        assert f"  {name}: " in run.out


def test_it_says_how_many_are_held_out(checked, images):
    status, folder, shown = checked("--data.held_out_share", 0.4)
    assert status == 0
    trained, held = shown.out.split(f"held out of {images}: ")
    count = int(held.split()[0])
    assert 1 <= count <= 5 and f"{images}: {7 - count} images" in trained
    assert f"data.held_out_share: {images}" in (folder / DATA_REPORT).read_text()
