import json
import pathlib

import pytest
from PIL import Image

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import build_emoji_set
    import emoji

    return build_emoji_set, emoji


@pytest.fixture
def packages(tmp_path):
    """Extracted npm packages of three emoji, one of them a flag, and one too new to be drawn."""
    names = tmp_path / "unicode-emoji-json-0.9.0/package"
    assets = tmp_path / "lobehub-fluent-emoji-3d-1.1.0/package/assets"
    names.mkdir(parents=True)
    assets.mkdir(parents=True)
    keywords = tmp_path / "emojibase-data-16.0.3/package/en"
    keywords.mkdir(parents=True)
    tags = [
        {"hexcode": "1F42F", "tags": ["face", "predator", "tiger"]},
        {"hexcode": "1F6E4", "tags": ["train"]},
        {"hexcode": "1F1E6"},
    ]
    (keywords / "data.json").write_text(json.dumps(tags))
    entries = {
        "🐯": {"name": "tiger face", "group": "Animals & Nature"},
        "🛤️": {"name": "railway track", "group": "Travel & Places"},
        "🫩": {"name": "face with bags under eyes", "group": "Smileys & Emotion"},
        "🏁": {"name": "chequered flag", "group": "Flags"},
    }
    (names / "data-by-emoji.json").write_text(json.dumps(entries), "utf-8")
    for code in ("1f42f", "1f6e4-fe0f", "1f3c1"):
        Image.new("RGBA", (6, 6), (255, 0, 0, 0)).save(assets / f"{code}.webp", lossless=True)
    return tmp_path


def test_build(scripts, packages, tmp_path):
    counts = scripts[0].build(tmp_path / "out", packages)
    assert counts == {"train": 1, "held_out": 1}
    texts = {
        split: json.loads((tmp_path / "out" / split / "metadata.jsonl").read_text())
        for split in counts
    }
    assert texts["train"] == {
        "file_name": "1f42f.png",
        "text": [
            "a 3d render of a tiger face",
            "a tiger face",
            "tiger face",
            "a 3d render of a tiger face, predator",
            "tiger face, predator",
        ],
    }
    assert texts["held_out"]["text"][0] == "a 3d render of a railway track"
    assert texts["held_out"]["text"][-1] == "railway track, train"
    with Image.open(tmp_path / "out/train/1f42f.png") as image:
        assert image.mode == "RGB" and image.getpixel((0, 0)) == (255, 255, 255)


def test_bundle(scripts, tmp_path):
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    names = [f"{i:02}.png" for i in range(48)]
    for name in names:
        Image.new("RGB", (256, 256), (int(name[:2]), 0, 0)).save(held_out / name)
    scripts[1].write_metadata(held_out, [(name, [f"a {name}", name]) for name in names])
    scripts[0].bundle(held_out, tmp_path / "out")
    lines = (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["file_name"] for row in rows] == names[::2]
    assert rows[1]["text"] == "a 02.png"
    with Image.open(tmp_path / "out" / "02.png") as image:
        assert image.size == (128, 128) and image.getpixel((5, 5)) == (2, 0, 0)


def test_one_in_twenty_is_held_out_by_name(scripts):
    held_out = scripts[0].held_out
    assert 400 < sum(held_out(f"name {i}") for i in range(10_000)) < 600
    # The bundled base never saw the first three; a change here would make its figures untrue.
    names = ("penguin", "volcano", "violin", "tiger face", "wolf")
    assert [held_out(name) for name in names] == [True, True, True, False, False]


def test_the_article_goes_with_the_name(scripts):
    with_article = scripts[1].with_article
    assert with_article("alarm clock") == "an alarm clock"
    assert with_article("Lion") == "a lion"


def test_an_emoji_without_keywords_has_three_wordings(scripts):
    assert scripts[1].captions("3d render", "Owl", ["owl"]) == [
        "a 3d render of an owl",
        "an owl",
        "owl",
    ]
