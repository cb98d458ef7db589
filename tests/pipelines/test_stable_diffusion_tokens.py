"""New tokens in a pipeline: what diffusers' `load_textual_inversion` makes of the same files."""

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

import flax_sd
from flax_sd.errors import UserError
from flax_sd.models.tokenizer import Tokenizer
from tests import tiny
from tests.parity import NETWORK, assert_close
from tests.tiny import NEGATIVES, SEEDS, STEPS

PROMPTS = ["a photo of <cat>, <CAT-toy>s!", "<cat>_1 in the rain"]
TOKENS = {"<cat>": 3, "<Cat-toy>": 1}  # vectors


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each token, random."""
    folder, rng = tmp_path_factory.mktemp("embeddings"), np.random.default_rng(0)
    for i, (token, count) in enumerate(TOKENS.items()):
        rows = torch.from_numpy(rng.normal(size=(count, 12)).astype(np.float32))
        safetensors.torch.save_file({token: rows}, folder / f"{i}.safetensors")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def theirs(folders, files):
    pipeline = tiny.load(folders / "sd1")
    for path in files:
        pipeline.load_textual_inversion(path.parent, weight_name=path.name)
    return pipeline


def test_text_states_and_an_image_are_diffusers(pairs, theirs, files):
    ours, _ = pairs["sd1"]
    before = ours.encode_prompt(PROMPTS).text
    assert [ours.add_embedding(path) for path in files] == list(TOKENS)
    prompts = theirs.maybe_convert_prompt(PROMPTS, theirs.tokenizer)
    ids = theirs.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    assert np.array_equal(ours.tokenizers[0](PROMPTS), ids.numpy())
    with torch.no_grad():
        states = theirs.text_encoder(ids).last_hidden_state
    assert_close(ours.encode_prompt(PROMPTS).text, states, NETWORK)
    expected = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, **STEPS)
    drawn = ours.generate(PROMPTS, NEGATIVES, seed=SEEDS, output="latents", **STEPS)
    assert_close(drawn, expected, NETWORK)
    for token in TOKENS:
        ours.remove_embedding(token)
    assert np.array_equal(ours.encode_prompt(PROMPTS).text, before)


def test_tokens_stay_out_of_what_is_saved(folders, files, tmp_path):
    sd = flax_sd.StableDiffusion.load(folders / "sd1")
    sd.add_embedding(files[0], "<sks>")
    sd.save(tmp_path / "saved")
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"):
        saved, own = (root / "tokenizer" / name for root in (tmp_path / "saved", folders / "sd1"))
        assert saved.is_file() == own.is_file()
        assert not own.is_file() or saved.read_bytes() == own.read_bytes()
    again = tiny.load(tmp_path / "saved").text_encoder.state_dict()
    theirs = tiny.load(folders / "sd1").text_encoder.state_dict()
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[key], value) for key, value in theirs.items())


def test_refusals_leave_the_pipeline_as_it_was(pairs, files):
    sd, _ = pairs["sd1"]
    with pytest.raises(UserError, match="there is no embedding called '<cat>'; there is none"):
        sd.remove_embedding("<cat>")
    sd.add_embedding(files[0])
    states = sd.encode_prompt(PROMPTS).text
    for token, message in [
        ("cat", "'cat' is in the vocabulary already: take others, such as <my-cat>"),
        ("Cat", "'Cat' is in the vocabulary already"),
        ("<cat>", "an embedding called '<cat>' exists already; remove it or name this one"),
        ("<CAT>_2", "'<CAT>_2' exists already .case does not count."),
        (" ", "a token must have a letter or sign"),
    ]:
        with pytest.raises(UserError, match=message):
            sd.add_embedding(files[0] if token == "<cat>" else files[1], token)
    assert np.array_equal(sd.encode_prompt(PROMPTS).text, states)
    sd.remove_embedding("<cat>")


def test_ids_go_on_where_the_table_ends():
    """Also where the table is longer than the tokenizer's vocabulary."""
    plain = Tokenizer.load(tiny.TOKENIZER)
    tokenizer = plain.with_tokens(["<cat>", "<cat>_1", "<dog>"], first=50_000)
    assert tokenizer.encode("<dog><cat>") == [50_002, 50_000, 50_001]
    assert plain.encode("<dog><cat>") != tokenizer.encode("<dog><cat>")


def test_what_is_cut_off_counts_every_vector():
    tokenizer = Tokenizer.load(tiny.TOKENIZER).with_tokens(["<cat>", "<cat>_1"], first=49_408)
    assert not tokenizer.cut_off("dog " * 73 + "<cat>")
    assert tokenizer.cut_off("dog " * 74 + "<cat> here") == "<cat> here"


def test_a_saved_models_own_tokens_are_expanded(folders, tmp_path):
    """As diffusers' pipelines do with whatever was added to a tokenizer."""
    theirs = transformers.CLIPTokenizer.from_pretrained(folders / "sd1" / "tokenizer")
    theirs.add_tokens(["<cat>", "<cat>_1"])
    theirs.save_pretrained(tmp_path)
    assert Tokenizer.load(tmp_path).encode("<cat> a") == [49408, 49409, 320]
