"""Each kind of finding: where it is due, and not where it is not."""

import numpy as np
import pytest
from PIL import Image

from flax_sd.data import check, duplicates_across, open_images
from flax_sd.data.check import KINDS
from tests.data.images import profiles
from tests.data.messy import SHORT, cut_off, messy_folder


@pytest.fixture
def found(tmp_path, config):
    """Finds what is wrong with a messy folder; (kind, name) -> text."""
    messy_folder(tmp_path)
    findings = check(open_images(config(tmp_path, resolution=16)), cut_off)
    assert len({(f.kind, f.name) for f in findings}) == len(findings)
    return {(f.kind, f.name): f.text for f in findings}


def test_a_messy_folder(found):
    assert sorted(found) == sorted(
        [
            ("left out", "cut off.jpg"),
            ("left out", "empty.png"),
            ("left out", "latin.png"),
            ("left out", "no caption.png"),
            ("left out", "not an image.png"),
            ("duplicate", "copy.png"),
            ("duplicate", "saved again.bmp"),
            ("empty caption", "no words.png"),
            ("long caption", "wordy.png"),
            ("small", "tiny.png"),
            ("cropped", "wide.png"),
            ("turned", "turned.jpg"),
            ("animated", "moves.gif"),
            ("unused", "notes.txt"),
        ]
    )


def test_the_texts_say_what_was_found(found):
    assert "is not UTF-8" in found["left out", "latin.png"]
    assert found["duplicate", "copy.png"] == "is the same file as a.png, with the same captions"
    again = found["duplicate", "saved again.bmp"]
    assert again == "shows the same as a.png, with other captions"
    assert found["long caption", "wordy.png"] == "not read: 'and more'"
    assert found["small", "tiny.png"] == "8 x 9 pixels, enlarged 2.0 times"
    assert found["cropped", "wide.png"] == "48 x 16 pixels, of which 67% is left out each time"
    assert found["turned", "turned.jpg"] == "18 x 20 pixels once upright"
    assert found["animated", "moves.gif"] == "3 frames"


def test_findings_come_in_the_order_of_the_kinds(tmp_path, config):
    messy_folder(tmp_path)
    kinds = [f.kind for f in check(open_images(config(tmp_path, resolution=16)), cut_off)]
    assert kinds == sorted(kinds, key=list(KINDS).index)


def test_where_nothing_reads_captions_nothing_is_said_of_them(tmp_path, config):
    messy_folder(tmp_path)
    kinds = {f.kind for f in check(open_images(config(tmp_path)), None)}
    assert "left out" in kinds and not any("caption" in kind for kind in kinds)


def test_images_in_two_sets(tmp_path, config):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, colours in ((a, ["red", "green"]), (b, ["blue", "red"])):
        folder.mkdir()
        for colour in colours:
            Image.new("RGB", (20, 20), colour).save(folder / f"{folder.name} {colour}.png")
            (folder / f"{folder.name} {colour}.txt").write_text(SHORT)
    (finding,) = duplicates_across(open_images(config(a)), open_images(config(b)))
    assert finding.name == "b red.png" and finding.text == "shows the same as a red.png"


def test_a_bucket_crops_less_and_enlarges_by_what_it_is(tmp_path, config):
    messy_folder(tmp_path)
    images = open_images(config(tmp_path, resolution=16, buckets="area", bucket_step=8))
    found = {(f.kind, f.name): f.text for f in check(images, cut_off)}
    assert images.shapes[images.names.index("wide.png")] == (24, 8)
    assert ("cropped", "wide.png") not in found
    assert found["small", "tiny.png"] == "8 x 9 pixels, enlarged 2.0 times"


def test_images_for_regularisation_past_enough_are_named(tmp_path, config):
    for name in ("own", "prior"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (20, 20), (i, 0, len(name))).save(tmp_path / name / f"{i}.png")
            (tmp_path / name / f"{i}.txt").write_text(SHORT)
    (tmp_path / "own" / "1.png").unlink()
    options = {"regularisation": str(tmp_path / "prior")}
    found = check(open_images(config(tmp_path / "own", **options)), None)
    unused = [f.name for f in found if f.kind == "unused"]
    assert sorted(unused) == sorted(["1.txt", f"{tmp_path}/prior/1.png"])


def test_what_was_made_of_metadata_is_said(tmp_path, config):
    """F9, F23, F37."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 3), np.uint8)
    red, green, blue, tan = map(Image.fromarray, noise)
    red.save(tmp_path / "adobe.jpg", icc_profile=profiles.ADOBE_RGB)
    green.save(tmp_path / "broken.png", icc_profile=b"no profile")
    blue.save(tmp_path / "turned.webp", exif=b"Exif\0\0no EXIF", lossless=True)
    values = np.asarray(tan.convert("L")).astype(np.int32)
    Image.fromarray(values).save(tmp_path / "integers.tif")
    for path in list(tmp_path.iterdir()):
        path.with_suffix(".txt").write_text(SHORT)
    images = open_images(config(tmp_path, resolution=16))
    assert len(images) == 4 and not images.bad
    found = {f.kind: (f.name, f.text) for f in check(images, None)}
    assert list(found) == ["unknown orientation", "unknown colours", "guessed range", "converted"]
    assert found["converted"] == ("adobe.jpg", "from Adobe RGB (1998) to sRGB")
    assert found["unknown colours"] == ("broken.png", "its profile cannot be read")
    name, text = found["unknown orientation"]
    assert (
        name == "turned.webp"
        and text == "its EXIF cannot be read: it begins with neither II nor MM"
    )
    assert found["guessed range"][0] == "integers.tif"
    trained = images.original(images.names.index("integers.tif"))
    np.testing.assert_array_equal(np.asarray(trained)[..., 0], values)
