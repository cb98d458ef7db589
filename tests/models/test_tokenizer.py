"""Token ids against transformers' CLIPTokenizer, over every layout of folder that people have."""

import hashlib
import json
import logging
import pathlib
import random
import shutil

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import flax_sd
from flax_sd.errors import UserError
from flax_sd.models.tokenizer import Tokenizer

BUNDLED = pathlib.Path(flax_sd.__file__).parent / "bundled" / "base" / "tokenizer"
LAYOUTS = ["sd1", "sd2", "sd1 of transformers 5", "sd2 of transformers 5", "textual inversion"]
PIECES = (
    "a cat~Hello!~it's~DON'T~we'LL~I'd~123~4,5~<|endoftext|>~<|EndOfText|>~<|startoftext|>~!~!!~?!"
    "~\u200b~\u200d~👩\u200d👩\u200d👧~é~e\u0301~İ~ß~Σς~ﬁ~\t~\n~  ~\u00a0~\u3000~你好~日本語~"
    "<b>x</b>~&amp;~\ufeff~Ａ~½~٣~\x00~\x7f~<cat-toy>~<sks>~<SKS>~[x]~[X]~…~--~’s~'S~😀~\u2028~\x85~\u0345"
    "~ǅ~한국어~नमस्ते"
).split("~")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    for name in ("sd1", "sd2"):
        shutil.copytree(BUNDLED, root / name)
    # SD 2.1's own files: special_tokens_map.json says "!", tokenizer_config.json the end token.
    tokens = json.loads((BUNDLED / "special_tokens_map.json").read_text())
    (root / "sd2" / "special_tokens_map.json").write_text(json.dumps(tokens | {"pad_token": "!"}))
    for name in ("sd1", "sd2"):
        theirs = transformers.CLIPTokenizer.from_pretrained(root / name)
        theirs.save_pretrained(root / f"{name} of transformers 5")
    theirs.add_tokens(["<cat-toy>", "<Sks>"])
    theirs.add_special_tokens({"additional_special_tokens": ["[X]"]})
    theirs.save_pretrained(root / "textual inversion")
    return root


@pytest.fixture(scope="session")
def pairs(folders):
    return {
        name: (
            Tokenizer.load(folders / name),
            transformers.CLIPTokenizer.from_pretrained(folders / name),
        )
        for name in LAYOUTS
    }


def theirs_of(tokenizer, texts):
    encoded = tokenizer(texts, padding="max_length", max_length=77, truncation=True)
    return np.array(encoded["input_ids"])


def nasty(rng):
    kind = rng.random()
    if kind < 0.5:
        return "".join(
            rng.choice(PIECES) + rng.choice(["", " "]) for _ in range(rng.randint(0, 12))
        )
    if kind < 0.8:
        ranges = [(0, 127), (128, 0x2FF), (0x300, 0xD7FF), (0xE000, 0x1FFFF)]
        return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(0, 40)))
    return "".join(chr(rng.randint(32, 126)) for _ in range(rng.randint(0, 120)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_of_thousands_of_nasty_prompts(pairs, layout, caplog):
    ours, theirs = pairs[layout]
    rng = random.Random(0)
    texts = [*PIECES, *(nasty(rng) for _ in range(2000))]
    caplog.set_level(logging.ERROR)
    expected = theirs_of(theirs, texts)
    for text, actual, wanted in zip(texts, ours(texts), expected, strict=True):
        assert np.array_equal(actual, wanted), repr(text)
    assert (ours.bos, ours.eos) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.pad == theirs.pad_token_id == (49407 if layout.startswith("sd1") else 0)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=100))
def test_ids_of_any_text(pairs, text):
    for ours, theirs in pairs.values():
        assert np.array_equal(ours([text]), theirs_of(theirs, [text]))


def test_both_layouts_give_the_same_ids(pairs):
    prompts = ["a 3d render of a tiger face!", ""]
    a, b = (pairs[name][0](prompts) for name in ("sd2", "sd2 of transformers 5"))
    assert a.dtype == np.int32 and a.shape == (2, 77) and np.array_equal(a, b)
    assert a[1].tolist() == [49406, 49407, *[0] * 75]


def test_a_batch_gives_each_prompt_its_own_ids(pairs):
    ours, _ = pairs["sd1"]
    prompts = ["a cat", "two dogs, one bone", ""]
    batch = ours(prompts)
    assert all(np.array_equal(batch[i : i + 1], ours([p])) for i, p in enumerate(prompts))
    assert np.array_equal(ours("a cat"), batch[:1]) and ours([]).shape == (0, 77)


def test_what_is_cut_off_is_named(pairs, caplog):
    ours, theirs = pairs["sd1"]
    text = "Cat " * 75
    ours([text])
    assert not caplog.records
    ids = ours([text + "with a RED Hat"])
    assert [record.name for record in caplog.records] == ["flax_sd"]
    message = caplog.records[0].getMessage()
    assert message == "cut off, past 75 tokens of a prompt: 'with a RED Hat'"
    assert np.array_equal(ids, theirs_of(theirs, [text])) and ids[0, -1] == ours.eos


# `_get_input_ids` of sd-scripts' library/strategy_base.py pads a text to 2 + 75 n ids and cuts n
# chunks out of that, each between the begin token and the last id. Where the padding is no end
# token, the end token takes the last place of a chunk that is full of text, and the first place of
# one that has none. So every chunk comes out as the ids of its text alone.
@pytest.mark.parametrize("layout, pad", [("sd1", 49407), ("sd2", 0)])
@pytest.mark.parametrize(
    "words, chunks",
    [
        (0, [0, 0]),
        (1, [1, 0]),
        (74, [74, 0]),
        (75, [75, 0]),
        (76, [75, 1]),
        (149, [75, 74]),
        (150, [75, 75]),
        (151, [75, 75]),
        (160, [75, 75, 10]),
    ],
)
def test_chunks_are_those_of_sd_scripts(pairs, layout, pad, words, chunks):
    ours = pairs[layout][0].with_length(75 * len(chunks))
    prompt = " ".join(("one two three four five six seven".split() * 23)[:words])
    left, expected = ours.encode(prompt), []
    for count in chunks:
        text, left = left[:count], left[count:]
        expected.append([49406, *text, 49407, *[pad] * (75 - count)])
    assert ours([prompt]).tolist() == [expected]


def test_a_text_that_begins_a_chunk_with_the_padding_is_kept(pairs):
    """Which sd-scripts takes for an empty chunk."""
    longer = pairs["sd2"][0].with_length(150)
    assert longer(["cat " * 75 + "!~"])[0, 1, :5].tolist() == [49406, 0, 349, 49407, 0]


def test_a_length_is_read_and_the_rest_is_named(pairs, caplog):
    plain = pairs["sd1"][0]
    longer, text = plain.with_length(150), "cat " * 150 + "hat"
    assert longer.cut_off(text) == "hat" and plain.cut_off(text) == "cat " * 75 + "hat"
    longer([text])
    assert caplog.records[0].getMessage() == "cut off, past 150 tokens of a prompt: 'hat'"
    assert plain.max_token_length == 75 and plain([text]).shape == (1, 77)
    same = longer.with_length(75)([text, ""])
    assert np.array_equal(same, plain([text, ""])) and longer([]).shape == (0, 2, 77)
    with pytest.raises(UserError, match="max_token_length is 100: should be 75, 150 or 225"):
        plain.with_length(100)


def test_the_vectors_of_a_token_may_lie_in_two_chunks(pairs):
    longer = pairs["sd1"][0].with_length(150).with_tokens(["<a>", "<a>_1"], first=50000)
    first, second = longer(["cat " * 74 + "<a>"])[0]
    assert (first[75], second[1]) == (50000, 50001) and second[2] == longer.eos


def test_half_a_surrogate_is_refused(pairs):
    with pytest.raises(UserError, match=r"prompt 'a \\ud83d' holds half a surrogate pair"):
        pairs["sd1"][0](["a \ud83d"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_files_are_those_that_were_read(folders, pairs, layout, tmp_path):
    ours, theirs = pairs[layout]
    ours.save(tmp_path / "saved")
    saved = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    assert saved == {p.name: p.read_bytes() for p in (folders / layout).iterdir()}
    again = transformers.CLIPTokenizer.from_pretrained(tmp_path / "saved")
    assert np.array_equal(theirs_of(again, PIECES), theirs_of(theirs, PIECES))


def test_a_folder_is_read_anew_where_its_files_have_changed(tmp_path):
    folder = tmp_path / "tokenizer"
    shutil.copytree(BUNDLED, folder)
    first = Tokenizer.load(folder)
    assert Tokenizer.load(folder) is first
    tokens = json.loads((folder / "special_tokens_map.json").read_text())
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens | {"pad_token": "!"}))
    assert (first.pad, Tokenizer.load(folder).pad) == (49407, 0)


def test_the_bundled_files_are_the_hubs():
    def blob(name):
        data = (BUNDLED / name).read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    assert blob("vocab.json") == "469be27c5c010538f845f518c4f5e8574c78f7c8"
    assert blob("merges.txt") == "76e821f1b6f0a9709293c3b6b51ed90980b3166b"
    assert "Permission is hereby granted" in (BUNDLED / "LICENSE").read_text()


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("vocab.json", None, "holds no tokenizer: vocab.json and merges.txt are wanted, or"),
        ("merges.txt", None, "holds no tokenizer: vocab.json and merges.txt are wanted, or"),
        ("vocab.json", "{", "vocab.json is not JSON"),
        ("vocab.json", "[]", "vocab.json holds list, not a JSON object"),
        ("vocab.json", "{}", "the vocabulary and the merges of the tokenizer do not fit"),
        ("merges.txt", "#version: 0.2\nonly\n", "the vocabulary and the merges"),
        ("tokenizer.json", "{}", "the vocabulary and the merges"),
    ],
)
def test_broken_folders_are_refused(tmp_path, name, content, message):
    folder = tmp_path / "tokenizer"
    shutil.copytree(BUNDLED, folder)
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=f"tokenizer.*{message}"):
        Tokenizer.load(folder)
