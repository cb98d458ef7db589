from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_sd.config import DataConfig
from flax_sd.data import open_images
from flax_sd.data.captions import drop_captions, fixed_caption, has_random_captions, random_caption

TAGS = "1girl, solo, red hat, smile, outdoors"


def many(text, count=400, **options):
    cfg = DataConfig(**options)
    return [random_caption(cfg, text, seed=1, sample=n) for n in range(count)]


def test_by_default_a_caption_is_as_it_is_written():
    assert not has_random_captions(DataConfig())
    for text in (TAGS, "a {red|blue} cat", "", "  two  spaces"):
        assert set(many(text, 3)) == {text} and fixed_caption(DataConfig(), text) == text


def test_a_template_stands_around_captions_and_leaves_the_empty_one():
    cfg = DataConfig(template="sks style, {}")
    assert fixed_caption(cfg, "a cat") == "sks style, a cat" and fixed_caption(cfg, "") == ""
    assert many("a cat", 2, template="sks style, {}") == ["sks style, a cat"] * 2


def test_tags_are_shuffled_and_the_first_stay():
    texts = many(TAGS, shuffle_tags=True, keep_tags=2)
    assert len(set(texts)) == 6 and all(text.startswith("1girl, solo, ") for text in texts)
    assert all(sorted(text.split(", ")) == sorted(TAGS.split(", ")) for text in texts)
    assert min(Counter(texts).values()) > 40  # of 400 over six orders


def test_tags_are_dropped_by_their_share_and_the_first_stay():
    texts = many(TAGS, tag_dropout=0.25, keep_tags=1)
    counts = Counter(tag for text in texts for tag in text.split(", "))
    assert counts["1girl"] == 400
    for tag in TAGS.split(", ")[1:]:
        assert 260 < counts[tag] < 340
    orders = [[TAGS.index(tag) for tag in text.split(", ")] for text in texts]
    assert all(order == sorted(order) for order in orders)


def test_a_template_stays_when_all_tags_are_dropped():
    """A8: the trigger is in every sample of a caption that was written."""
    texts = many("smile", template="sks, {}", tag_dropout=0.5)
    assert set(texts) == {"sks, smile", "sks, "} and min(Counter(texts).values()) > 150
    assert set(many("{|a hat}", template="sks {}", wildcards=True)) == {"sks ", "sks a hat"}
    assert fixed_caption(DataConfig(template="sks {}", wildcards=True), "{|a hat}") == "sks "
    assert set(many("", 20, template="sks, {}", tag_dropout=0.5)) == {""}


def test_one_of_a_wildcards_choices_is_drawn():
    texts = many("a {red|dark blue | green} {cat|dog}", wildcards=True)
    assert len(set(texts)) == 6 and min(Counter(texts).values()) > 35
    assert "a dark blue dog" in texts
    assert fixed_caption(DataConfig(wildcards=True), "a {red|blue} cat") == "a red cat"
    assert fixed_caption(DataConfig(wildcards=True), "no {choice} here") == "no {choice} here"


def test_another_separator():
    texts = many("a b; c d; e", shuffle_tags=True, tag_separator=";")
    assert "c d; e; a b" in texts


def test_what_stands_before_the_keep_separator_stays():
    """D: `--keep_tokens_separator`, the second one too; an empty place is no tag."""
    options = {"shuffle_tags": True, "tag_dropout": 0.2, "keep_separator": "|||", "keep_tags": 1}
    texts = many("sks, |||a, b, c||| film, 35mm", **options)
    assert all(text.startswith("sks, ") and text.endswith("film, 35mm") for text in texts)
    assert len(set(texts)) == 16  # every subset of three tags in every order
    assert {tuple(sorted(text.split(", ")[1:-2])) for text in texts} >= {(), ("a", "b", "c")}
    # A caption without it follows keep_tags, and one without free tags is what stays.
    assert all(text.startswith("a") for text in many("a, b, c", 50, **options))
    assert set(many("sks, x|||", 20, **options)) == {"sks, x"}


def test_separators_are_removed_where_nothing_is_shuffled():
    """D: also of held-out images, in the template, behind a wildcard."""
    marks = {"keep_separator": "|||", "group_separator": ";;;"}
    text = "sks ||| red hair;;;long hair, smile ||| film ||| grain"
    shown = "x sks, red hair, long hair, smile, film, grain"
    cfg = DataConfig(template="x {}", **marks)
    assert (
        not has_random_captions(cfg)
        and random_caption(cfg, text, seed=0, sample=0) == fixed_caption(cfg, text) == shown
    )
    varied = DataConfig(template="x {}", shuffle_tags=True, tag_dropout=0.5, **marks)
    assert fixed_caption(varied, text) == shown == fixed_caption(varied.for_evaluation(), text)
    assert fixed_caption(DataConfig(wildcards=True, **marks), "{a|b} ||| c") == "a, c"
    assert fixed_caption(cfg, "a,  b") == "x a,  b"  # as it is written
    other = DataConfig(shuffle_tags=True, tag_separator=";", keep_separator="|||")
    assert fixed_caption(other.for_evaluation(), "a ||| b; c") == "a; b; c"


def test_tags_of_a_group_stay_together():
    """D: `--secondary_separator`."""
    texts = many("a, red;;;blue, c", shuffle_tags=True, tag_dropout=0.2, group_separator=";;;")
    assert all(("red, blue" in text) == ("red" in text) == ("blue" in text) for text in texts)
    assert {"red, blue, c, a", "c, red, blue", "a, c", "red, blue"} <= set(texts)


@given(st.text(max_size=40), st.integers(0, 2**32 - 1), st.integers(0, 2**40))
def test_a_draw_is_a_function_of_seed_and_sample(text, seed, sample):
    cfg = DataConfig(shuffle_tags=True, tag_dropout=0.5, wildcards=True, template="x {}")
    once, again = (random_caption(cfg, text, seed=seed, sample=sample) for _ in range(2))
    assert once == again


def test_images_list_plain_captions_and_draw_varied_ones(folder, config):
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a, b, {c|d}"}')
    images = open_images(config(folder, shuffle_tags=True, wildcards=True, template="t {}"))
    assert images.captions(0) == ("t a, b, c",)
    texts = {images.caption(0, seed=0, sample=n) for n in range(200)}
    assert len(texts) == 12 and "t d, b, a" in texts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "sks"}, "must hold {}"),
        ({"keep_tags": 1}, "keep_tags without effect"),
        ({"tag_separator": ";"}, "tag_separator without effect"),
        (
            {"keep_separator": "|", "group_separator": "|,", "template": "a | {}"},
            r"group_separator '\|,' holds keep_separator '\|'; take another; "
            r"group_separator '\|,' holds tag_separator ','; take another; template .*leave it",
        ),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**options)


def test_a_share_of_the_captions_is_dropped():
    captions = [f"{i}" for i in range(2000)]
    dropped = drop_captions(captions, np.arange(2000), seed=0, share=0.25)
    assert 0.2 < dropped.count("") / 2000 < 0.3
    assert all(a in ("", b) for a, b in zip(dropped, captions, strict=True))
    # Sample 7 is treated alike wherever in a batch it stands.
    assert drop_captions(["7"], np.array([7]), seed=0, share=0.25) == [dropped[7]]
    assert drop_captions(captions, np.arange(2000), seed=1, share=0.25) != dropped
    # Written down once: a run must empty the same ones after an upgrade too.
    assert [i for i, text in enumerate(dropped[:20]) if not text] == [7, 8, 17]
