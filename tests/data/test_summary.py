from html import escape

from PIL import Image

from flax_sd.data import Finding, brief, check, open_images, summary
from flax_sd.data.check import KINDS
from flax_sd.data.summary import LETTERS, MAX_FILES_OF_KIND
from flax_sd.reports.data_report import report_page
from tests.data.images import profiles


def test_summary(folder, config):
    images = open_images(config(folder))
    findings = [
        Finding("left out", "5.png", "the file is empty"),
        Finding("small", "1.png", "tiny"),
    ]
    assert summary(images, findings).splitlines() == [
        f"{folder}: 5 images, 5 captions",
        "  0.png: 'caption 0'",
        "  2.png: 'caption 2'",
        "  4.png: 'caption 4'",
        f"left out (1): {KINDS['left out']}",
        "  5.png: the file is empty",
        f"small (1): {KINDS['small']}",
        "  1.png: tiny",
    ]


def test_a_brief_summary_is_a_line_and_those_left_out(folder, config):
    images = open_images(config(folder))
    small = [Finding("small", f"{i}.png", "tiny") for i in range(3)]
    assert brief(images, []) == f"{folder}: 5 images, 5 captions, such as 'caption 0'"
    findings = [Finding("left out", "5.png", "the file is empty"), *small]
    assert brief(images, findings).splitlines() == [
        f"{folder}: 5 images, 5 captions, such as 'caption 0'; left out 1, small 3",
        "  5.png: the file is empty",
    ]
    many = [Finding("left out", f"{i}.png", "bad") for i in range(MAX_FILES_OF_KIND + 2)]
    assert len(brief(images, many).splitlines()) == 1 + len(many)


def test_summary_shows_three_captions_and_counts_all(folder, config):
    (folder / "metadata.jsonl").unlink()
    for i in range(5):
        (folder / f"{i}.txt").write_text(f"caption {i}\nanother\n")
    lines = summary(open_images(config(folder)), []).splitlines()
    assert lines[0].endswith("5 images, 10 captions")
    assert lines[1:] == [f"  {i}.png: 'caption {i}'" for i in (0, 2, 4)]


def test_where_folders_names_are_captions_the_summary_and_the_page_count_them(folder, config):
    (folder / "metadata.jsonl").unlink()
    part = folder / "10_sks cat"
    part.mkdir()
    for i in range(5):
        (folder / f"{i}.png").rename(part / f"{i}.png")
    (part / "0.txt").write_text("one\ntwo\n")
    images = open_images(config(folder))
    words = "captions: 2 from files, 4 from the folder's name"
    lines = summary(images, []).splitlines()
    assert lines[0].endswith("5 images, 6 captions") and lines[1] == words
    assert escape(words) in report_page({"data.path": images}, {"data.path": []})


def test_all_that_is_left_out_is_named_and_a_few_of_the_rest(folder, config):
    names = [f"{i}.png" for i in range(MAX_FILES_OF_KIND + 3)]
    findings = [Finding(kind, name, "x") for kind in ("left out", "turned") for name in names]
    text = summary(open_images(config(folder)), findings)
    left_out, turned = text.split("turned (")
    assert all(f"  {name}: x" in left_out for name in names)
    assert turned.count(": x") == MAX_FILES_OF_KIND and "and 3 more" in turned


def test_long_captions_are_shown_by_their_beginning(folder, config):
    (folder / "metadata.jsonl").unlink()
    for i in range(5):
        (folder / f"{i}.txt").write_text(f"caption {i}, " + "flat, " * 50)
    reason = "the folder " + "a/" * 100 + " is away"
    findings = [
        Finding("left out", "5.png", reason),
        Finding("long caption", "1.png", f"not read: {'flat, ' * 50!r}"),
    ]
    lines = summary(open_images(config(folder)), findings).splitlines()
    quoted = [line for line in lines if line.endswith(("…", "…'"))]
    assert len(quoted) == 4 and all(len(line) < LETTERS + 15 for line in quoted)
    assert quoted[0].startswith("  0.png: 'caption 0, flat, flat")
    assert f"  5.png: {reason}" in lines


def test_what_is_converted_is_counted_by_its_colours(folder, config):
    """F9."""
    for i in range(4):
        name = "Display P3" if i else "Adobe RGB (1998)"
        profile = profiles.rgb(name, profiles.P3 if i else profiles.ADOBE, 2.2)
        Image.new("RGB", (20, 12), (40 * i, 200, 90)).save(folder / f"{i}.png", icc_profile=profile)
    images = open_images(config(folder))
    findings = check(images, None)
    text, page = (
        summary(images, findings),
        report_page({"data.path": images}, {"data.path": findings}),
    )
    for line in (
        "3 images converted from Display P3 to sRGB",
        "1 image converted from Adobe RGB (1998) to sRGB",
    ):
        assert f"\n{line}\n" in text and f"<p>{line}.</p>" in page
    assert f"converted (4): {KINDS['converted']}" in text and "<h3>converted (4)</h3>" in page
    assert "  0.png: from Adobe RGB (1998) to sRGB" in text
