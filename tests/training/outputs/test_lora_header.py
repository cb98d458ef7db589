"""What the header of a run's LoRA says (U8)."""

import json

from flax_sd.config import Config, DataConfig
from flax_sd.data import Images
from flax_sd.data.probe import Seen
from flax_sd.data.sources.records import Record
from flax_sd.training.outputs import lora_header


def images(*captions, prior=(), **options):
    """A set with these captions, each a list, that nobody opens."""
    found = [
        Record(f"{i}.png", tuple(texts), bytes, prior=i in prior)
        for i, texts in enumerate(captions)
    ]
    seen = [Seen((8, 8), turned=False, frames=1, digest="", shows="") for _ in found]
    return Images(DataConfig.model_validate(options), found, seen, [], [])


def frequency(*captions, **options):
    """The tags of such a set with their counts, in the header's order."""
    said = lora_header.tag_frequency(images(*captions, **options))
    return list(json.loads(said["ss_tag_frequency"])["pictures"].items())


def test_tags_are_counted_once_an_image_the_commonest_first():
    found = frequency(["cat, sofa"], ["red hat , cat", "cat,, blue"], ["dog"])
    assert found == [("cat", 2), ("blue", 1), ("dog", 1), ("red hat", 1), ("sofa", 1)]


def test_tags_are_those_that_are_trained_on():
    options = {"template": "sks, {}", "tag_separator": ";", "shuffle_tags": True}
    assert frequency(["cat; sofa"], **options) == [("sks, cat", 1), ("sofa", 1)]
    assert frequency(["cat"], ["any cat"], prior=[1], template="sks {}") == [("sks cat", 1)]


def test_nothing_is_said_without_captions_and_no_more_than_the_commonest(monkeypatch):
    assert lora_header.tag_frequency(images([""], [])) == {}
    monkeypatch.setattr(lora_header, "MAX_TAGS", 1)
    assert frequency(["b, a"], ["b"]) == [("b", 2)]


def test_a_name_is_a_title():
    assert lora_header.title("猫") == {"ss_output_name": "猫", "modelspec.title": "猫"}
    assert lora_header.title("a\udcff")["modelspec.title"] == "a?"


def test_hyper_parameters_are_those_of_the_run():
    config = Config.model_validate({"model": {"clip_skip": 1, "path": "a/b"}, "seed": 3})
    said = lora_header.said_of_run(config)
    assert said["ss_sd_model_name"] == "a/b" and said["ss_clip_skip"] == "2"
    assert said["ss_seed"] == "3" and said["ss_resolution"] == "(512, 512)"
