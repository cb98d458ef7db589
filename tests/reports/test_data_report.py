import base64
import io

import numpy as np
import pytest
from PIL import Image

from flax_sd.data import check, open_images
from flax_sd.data.check import Finding
from flax_sd.reports.data_report import GLIMPSE, PICTURES, report_page
from tests.data.images import profiles
from tests.data.messy import cut_off, messy_folder

RED = [255, 0, 0]


def test_every_file_is_named_and_shown_where_it_can_be_read(tmp_path, config):
    messy_folder(tmp_path)
    images = open_images(config(tmp_path, resolution=16))
    findings = check(images, cut_off)
    page = report_page({"data.path": images}, {"data.path": findings})
    for finding in findings:
        assert finding.kind in page and f"<b>{finding.name}</b>" in page
    readable = sum(f.name in images.names for f in findings)
    assert page.count("<img") == readable + len(images)  # those as trained on are all shown


def test_past_the_first_images_names_alone(folder, config):
    images = open_images(config(folder))
    findings = [Finding("turned", f"image {i}.png", "x") for i in range(PICTURES + 9)]
    page = report_page({"data.path": images}, {"data.path": findings})
    gallery, files = page.split('class="files"')
    assert gallery.count("<b>image ") == PICTURES and files.count("<div>image ") == 9


def test_a_image_that_went_away_since_leaves_a_page(folder, config):
    images = open_images(config(folder))
    findings = [Finding("turned", "1.png", "x")]
    (folder / "1.png").unlink()
    page = report_page({"data.path": images}, {"data.path": findings})
    assert "<b>1.png</b>" in page


def test_a_folded_table_has_the_size_bucket_and_cut_of_every_image(folder, config):
    images = open_images(config(folder, resolution=16, buckets="area", bucket_step=8))
    page = report_page({"data.path": images}, {"data.path": []})
    table = page.split("<summary>Every image (5)</summary>")[1].split("</details>")[0]
    for i, (fit, width) in enumerate(zip(images.fits, range(20, 25), strict=True)):
        cells = [f"{i}.png", f"{width} x 12", "{} x {}".format(*fit.shape), f"{fit.cropped:.0%}"]
        assert f"<tr><td>{'</td><td>'.join(cells)}</td></tr>" in table
    assert "mask" not in table and "<img" not in table and len({*images.fits}) > 1


def test_the_table_has_the_share_of_each_mask(folder, config):
    mask = Image.new("L", (20, 12))
    mask.paste("white", (0, 0, 5, 12))
    mask.save(folder / "0-masklabel.png")
    images = open_images(config(folder, mask="file"))
    page = report_page({"data.path": images}, {"data.path": []})
    rows = page.split("white in its mask</th></tr>")[1].split("</details>")[0].splitlines()[1:]
    assert rows[0].endswith("<td>25%</td></tr>") and rows[1].endswith("<td>–</td></tr>")


def shown(page, name):
    """The pixels of the last image of that name, and the words below it."""
    url, rest = page.rpartition(f'<img alt="{name}" src="data:image/jpeg;base64,')[2].split('"', 1)
    with Image.open(io.BytesIO(base64.b64decode(url))) as image:
        return np.asarray(image, int), rest.split("</b>")[1].split("</figure>")[0]


@pytest.mark.parametrize("least", [0, 0.5])
def test_what_a_mask_hides_is_greyed_by_how_little_it_weighs(folder, config, least):
    for i in range(2):
        Image.new("RGB", (64, 32), "red").save(folder / f"{i}.png")
    mask = Image.new("L", (64, 32))
    mask.paste("white", (0, 0, 32, 32))  # the left of what the middle leaves
    mask.save(folder / "0-masklabel.png")
    cfg = config(folder, mask="file", unmasked_weight=least, resolution=32, center_crop=True)
    page = report_page({"data.path": open_images(cfg)}, {"data.path": []})
    masked, words = shown(page, "0.png")
    whole, others = shown(page, "1.png")
    assert words.startswith("32 x 32 · mask 50% white · ") and "white" not in others
    glimpse = 127.5 * (GLIMPSE + (1 - GLIMPSE) * least)
    hidden = [127.5 + glimpse, 127.5 - glimpse, 127.5 - glimpse]
    for part, colour in ((whole, RED), (masked[:, :12], RED), (masked[:, 20:], hidden)):
        np.testing.assert_allclose(part.mean((0, 1)), colour, atol=4)


def test_a_converted_image_is_shown_as_srgb(folder, config):
    """F9."""
    for i in range(5):
        image = Image.new("RGB", (64, 64), (200, 60, 40))
        image.save(folder / f"{i}.png", icc_profile=profiles.ADOBE_RGB)
    images = open_images(config(folder, resolution=32))
    page = report_page({"data.path": images}, {"data.path": []})
    np.testing.assert_allclose(shown(page, "0.png")[0].mean((0, 1)), [231, 57, 34], atol=4)


def test_a_clean_set_is_called_so(folder, config):
    images = open_images(config(folder))
    assert "Nothing is wrong" in report_page({"data.path": images}, {"data.path": []})
