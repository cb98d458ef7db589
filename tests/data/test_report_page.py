from flax_sd.data import check, open_pictures, report_page
from flax_sd.data.check import Finding
from flax_sd.data.report_page import PICTURES
from tests.data.messy import cut_off, messy_folder


def test_every_file_is_named_and_shown_where_it_can_be_read(tmp_path, config):
    messy_folder(tmp_path)
    pictures = open_pictures(config(tmp_path, resolution=16))
    findings = check(pictures, cut_off)
    page = report_page({"data.path": pictures}, {"data.path": findings})
    for finding in findings:
        assert finding.kind in page and f"<b>{finding.name}</b>" in page
    readable = sum(f.name in pictures.names for f in findings)
    assert page.count("<img") == readable + len(pictures)  # those as trained on are all shown


def test_past_the_first_pictures_names_alone(folder, config):
    pictures = open_pictures(config(folder))
    findings = [Finding("turned", f"picture {i}.png", "x") for i in range(PICTURES + 9)]
    page = report_page({"data.path": pictures}, {"data.path": findings})
    gallery, files = page.split('class="files"')
    assert gallery.count("<b>picture ") == PICTURES and files.count("<div>picture ") == 9


def test_a_picture_that_went_away_since_leaves_a_page(folder, config):
    pictures = open_pictures(config(folder))
    findings = [Finding("turned", "1.png", "x")]
    (folder / "1.png").unlink()
    page = report_page({"data.path": pictures}, {"data.path": findings})
    assert "<b>1.png</b>" in page


def test_a_clean_set_is_called_so(folder, config):
    pictures = open_pictures(config(folder))
    assert "Nothing is wrong" in report_page({"data.path": pictures}, {"data.path": []})
