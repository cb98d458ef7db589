import pytest

from flax_sd.reports import run_report, samples
from flax_sd.run_folder import history
from tests.browser import needs_chromium, values
from tests.made_runs import make_run

LOOK = """() => {
  const box = document.querySelector("dialog"), link = document.querySelector(".slides a");
  const key = (key) =>
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const table = document.querySelector(".wide-table"), scroll = new KeyboardEvent("keydown", {
    key: "ArrowLeft", bubbles: true, cancelable: true });
  table.dispatchEvent(scroll);
  const cell = () => box.querySelector("p").textContent;
  const prompts = [...document.querySelectorAll("select option")].map((each) => each.text);
  const seen = { errors, prompts, scrolls: !scroll.defaultPrevented };
  link.click();
  seen.sheet = [box.open, cell(), box.querySelector("img").clientWidth];
  box.querySelector("button").click();
  seen.closed = box.open;
  const select = document.querySelector("select");
  select.value = "a dog"; select.onchange();
  seen.row = [...document.querySelectorAll(".row figure")].map((f) => f.innerText.trim());
  const crop = document.querySelector(".row .crop"), image = crop.firstChild;
  const [outer, inner] = [crop.getBoundingClientRect(), image.getBoundingClientRect()];
  const lengths = [outer.left - inner.left, inner.width, outer.height];
  seen.crop = lengths.map((each) => each / outer.width);
  document.querySelectorAll(".row a")[1].click();
  seen.single = [box.open, cell()];
  key("ArrowRight");
  seen.next = cell();
  key("ArrowLeft"); key("ArrowLeft"); key("ArrowLeft");
  seen.first = cell();
  return seen;
}"""


@pytest.mark.slow
@needs_chromium
def test_sheets_and_single_images_open_large_and_steps_are_side_by_side(tmp_path):
    folder = make_run(tmp_path / "a")
    page = folder / "report.html"
    page.write_text(run_report.report_page(history.read(folder), 60, "finished"))
    seen = values(page, LOOK)
    assert seen["errors"] == [] and seen["prompts"] == ["a cat", "a dog"]
    assert seen["sheet"][:2] == [True, "samples at step 60"] and seen["sheet"][2] > 500
    assert not seen["closed"] and seen["scrolls"]
    assert seen["row"] == ["step 0", "step 20", "step 40", "step 60"]
    assert seen["crop"] == pytest.approx([1, 2, 1], abs=0.02)  # the right half
    assert seen["single"] == [True, "a dog, step 20"]
    assert (seen["next"], seen["first"]) == ("a dog, step 40", "a dog, step 0")


def test_addresses_are_relative_and_quoted(tmp_path):
    page_folder = tmp_path / "pages"
    there = tmp_path / "run #1" / "samples" / "step-000000.png"
    assert samples.link(there, page_folder) == "../run%20%231/samples/step-000000.png"
