"""New tokens of SDXL, in both text encoders, as diffusers' `load_textual_inversion` adds them."""

import json

import numpy as np
import pytest
import torch

import flax_sd
from flax_sd.embeddings.embedding import Embedding
from flax_sd.embeddings.files import write
from flax_sd.errors import UserError
from flax_sd.models.clip import END_OF_TEXT
from flax_sd.weights.safetensors import TensorFile
from tests import tiny
from tests.parity import LAYER, NETWORK, assert_close
from tests.tiny import NEGATIVES, SEEDS, STEPS

# NumPy 2 about the Euler schedulers of diffusers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
PROMPTS = ["a photo of <cat>, <CAT-toy>s!", "<cat>_1 in the rain"]
TOKENS = {"<cat>": 3, "<Cat-toy>": 1}  # vectors


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("embeddings"), np.random.default_rng(0)
    for i, (token, count) in enumerate(TOKENS.items()):
        tables = {
            name: rng.normal(size=(count, width)).astype(np.float32)
            for name, width in (("text_encoder", 12), ("text_encoder_2", 10))
        }
        write(folder / f"{i}.safetensors", Embedding(token, tables))
    return sorted(folder.iterdir())


def with_tokens(folder, files):
    """diffusers' pipeline, of which each text encoder gets its table of each file."""
    pipeline = tiny.load(folder)
    for token, path in zip(TOKENS, files, strict=True):
        tensors = {k: torch.from_numpy(np.array(v)) for k, v in TensorFile(path).items()}
        for key, number in (("clip_l", ""), ("clip_g", "_2")):
            pipeline.load_textual_inversion(
                {token: tensors[key]},
                token=token,
                text_encoder=getattr(pipeline, f"text_encoder{number}"),
                tokenizer=getattr(pipeline, f"tokenizer{number}"),
            )
    return pipeline


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same model with the end token of the real tokenizer, and with the old number 2."""
    root = tmp_path_factory.mktemp("sdxl")
    for name, end in (("first", END_OF_TEXT), ("argmax", 2)):
        tiny.build_xl().save_pretrained(root / name)
        path = root / name / "text_encoder_2" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": end}))
    return root


@pytest.mark.slow
def test_text_states_and_an_image_are_diffusers(folders, files):
    """Traps 8 and 11: where the end token is told, both pool at the first."""
    theirs, ours = (
        with_tokens(folders / "first", files),
        flax_sd.StableDiffusion.load(folders / "first"),
    )
    before = ours.encode_prompt(PROMPTS)
    assert [ours.add_embedding(path) for path in files] == list(TOKENS)
    with torch.no_grad():
        text, _, pooled, _ = theirs.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    states = ours.encode_prompt(PROMPTS)
    assert_close(states.text, text, LAYER)
    assert_close(states.pooled, pooled, LAYER)
    latents = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, guidance_scale=5.0, **STEPS)
    pixels = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, "np", guidance_scale=5.0, **STEPS)
    given = {"seed": SEEDS, "guidance_scale": 5.0, **STEPS}
    assert_close(ours.generate(PROMPTS, NEGATIVES, output="latents", **given), latents, NETWORK)
    drawn = ours.generate(PROMPTS, NEGATIVES, **given)
    assert np.abs(drawn.astype(int) - (pixels * 255).round()).max() <= 2
    for token in TOKENS:
        ours.remove_embedding(token)
    after = ours.encode_prompt(PROMPTS)
    assert np.array_equal(after.text, before.text) and np.array_equal(after.pooled, before.pooled)


def test_pooled_text_is_at_the_first_end_token_whatever_the_config_says(folders, files):
    """Trap 8: with id 2 in the config transformers pools at the largest id, a learned token's."""
    pair = {name: flax_sd.StableDiffusion.load(folders / name) for name in ("first", "argmax")}
    for sd in pair.values():
        sd.add_embedding(files[0])
    ids = pair["argmax"].tokenizers[1](PROMPTS)
    assert ids[0].max() > END_OF_TEXT  # a learned id, where transformers pools
    first, argmax = (sd.encode_prompt(PROMPTS) for sd in pair.values())
    np.testing.assert_array_equal(argmax.pooled, first.pooled)
    theirs = with_tokens(folders / "argmax", files)
    with torch.no_grad():
        text, _, pooled, _ = theirs.encode_prompt(PROMPTS[:1], do_classifier_free_guidance=False)
    assert_close(pair["argmax"].encode_prompt("a photo of <cat>").text[:, :3], text[:, :3], LAYER)
    difference = np.abs(pooled.numpy() - argmax.pooled[:1]).max()
    assert difference > 0.1 * np.abs(argmax.pooled).max()  # the place where we differ
    given = {"seed": SEEDS, "output": "latents", **STEPS}
    drawn = [sd.generate(PROMPTS, NEGATIVES, **given) for sd in pair.values()]
    np.testing.assert_array_equal(*drawn)


def test_a_token_is_added_to_both_text_encoders_or_to_none(folders, files, tmp_path):
    """Trap 11."""
    sd = flax_sd.StableDiffusion.load(folders / "first")
    before = sd.encode_prompt(PROMPTS)
    rows = np.ones((1, 12), np.float32)
    write(tmp_path / "half.safetensors", Embedding("<half>", {"text_encoder": rows}), "clip_l")
    with pytest.raises(UserError, match="alone: this model is SDXL and reads clip_l"):
        sd.add_embedding(tmp_path / "half.safetensors")
    with pytest.raises(UserError, match="'cat' is in the vocabulary already"):
        sd.add_embedding(files[0], "cat")
    assert np.array_equal(sd.encode_prompt(PROMPTS).text, before.text)
    for encoder in sd.text_encoders:
        assert encoder.text_model.embeddings.new_tokens is None
    assert sd.add_embedding(files[0], "<sks>") == "<sks>"
    for tokenizer, encoder in zip(sd.tokenizers, sd.text_encoders, strict=True):
        assert tokenizer.encode("<sks>") == [49408, 49409, 49410]
        assert len(encoder.text_model.embeddings.new_tokens[...]) == 3
