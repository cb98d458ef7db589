"""Pages that everybody can read: at the width of a telephone, in the dark, without a mouse."""

import importlib.resources

import pytest

from flax_sd.config import DataConfig
from flax_sd.data import check, open_images
from flax_sd.reports import comparison, data_report, run_report
from flax_sd.run_folder import history
from tests.browser import DARK, needs_chromium, values
from tests.data.messy import cut_off, messy_folder
from tests.made_runs import make_run

pytestmark = [pytest.mark.slow, needs_chromium]
PAGES = ("report", "compare", "data")
AXE = """async () => (await axe.run()).violations.map(
  (found) => [found.id, ...found.nodes.map((node) => node.html.slice(0, 200))])"""

# Words of letters alone that stand on two lines; what is wider than the page.
OVERFLOW = """() => {
  const walk = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  const broken = [], range = document.createRange();
  for (let node = walk.nextNode(); node; node = walk.nextNode())
    if (!node.parentElement.closest("script, option"))
      for (const word of node.data.matchAll(/[a-z]{2,}/gi)) {
        range.setStart(node, word.index);
        range.setEnd(node, word.index + word[0].length);
        const lines = new Set([...range.getClientRects()].map((box) => box.top));
        if (lines.size > 1) broken.push(word[0]);
      }
  const boxes = [...document.querySelectorAll("input[type=checkbox]")];
  const charts = [...document.querySelectorAll(".chart .u-wrap")];
  return {
    errors, broken, width: innerWidth, wide: document.scrollingElement.scrollWidth,
    charts: charts.map((e) => [e.getAttribute("role"), e.getAttribute("aria-label")]),
    boxes: boxes.map((e) => e.labels[0].innerText.trim()),
  };
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    long_path = {"path": "/home/somebody/pictures/of/every/year/and/of/every/country"}
    runs = [
        make_run(folder / "one", data=long_path, sample={"prompts": ["a cat on a mat"] * 9}),
        make_run(folder / "a_run_of_a_longer_name", factor=2.0),
    ]
    one = history.read(runs[0])
    (folder / "one" / "samples" / "before_after.png").write_bytes(one.grids[0].read_bytes())
    texts = {
        "report": run_report.report_page(history.read(runs[0]), 90, "training"),
        "compare": comparison.compare_page(comparison.read_all(runs), folder),
    }
    (folder / "messy").mkdir()
    messy_folder(folder / "messy")
    images = open_images(DataConfig(path=str(folder / "messy"), resolution=16))
    found = {"data.path": check(images, cut_off)}
    texts["data"] = data_report.report_page({"data.path": images}, found)
    paths = {name: folder / f"{name}.html" for name in PAGES} | {"report": runs[0] / "report.html"}
    for name, text in texts.items():
        paths[name].write_text(text, "utf-8")
    return paths


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("colours", [(), (DARK,)], ids=["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(pages, name, colours, width):
    axe = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js")
    assert values(pages[name], AXE, *colours, scripts=axe.read_text("utf-8"), width=width) == []


@pytest.mark.parametrize("name", PAGES)
def test_at_400_pixels_nothing_overflows_and_no_word_breaks(pages, name):
    seen = values(pages[name], OVERFLOW, width=400)
    assert seen["errors"] == [] and seen["width"] == 400
    assert seen["wide"] <= seen["width"] and seen["broken"] == []


def test_charts_and_checkboxes_say_what_they_are(pages):
    seen = values(pages["report"], OVERFLOW)
    boxes, (training, held_out, *_) = seen["boxes"], seen["charts"]
    assert boxes[0] == "load this page again every 20 seconds"
    assert boxes[1:] == ["logarithmic axis"] * len(seen["charts"])
    assert training[0] == held_out[0] == "img"
    assert held_out[1].startswith(
        "Held-out loss. val_loss: 4 values, from 0.6 at step 0 to 0.52231 at step 60; "
        "the lowest is 0.52231 at step 60. train_subset: "
    )
