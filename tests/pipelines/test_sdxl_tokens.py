"""New tokens of SDXL, in both text encoders, as diffusers' `load_textual_inversion` adds them."""

import json

import numpy as np
import pytest
import torch

import flax_sd
from flax_sd.embeddings.embedding import Embedding
from flax_sd.embeddings.files import write
from flax_sd.errors import UserError
from flax_sd.lora.adapter import Adapter
from flax_sd.lora.formats import peft
from flax_sd.lora.formats.read import read as read_lora
from flax_sd.models.clip import END_OF_TEXT
from flax_sd.weights import safetensors
from flax_sd.weights.safetensors import TensorFile
from tests import tiny
from tests.parity import LAYER, NETWORK, assert_close
from tests.tiny import NEGATIVES, SEEDS, STEPS

# NumPy 2 about the Euler schedulers of diffusers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
PROMPTS = ["a photo of <cat>, <CAT-toy>s!", "<cat>_1 in the rain"]
NEW = [49408, 49409, 49410]  # ids
WIDTHS = {"clip_l": 12, "clip_g": 10}
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
        assert tokenizer.encode("<sks>") == NEW
        assert len(encoder.text_model.embeddings.new_tokens[...]) == 3


def bundled(path, *tables, layer="text_model.encoder.layers.0.self_attn.q_proj"):
    """A LoRA of the first text encoder, with tensors beside it."""
    down, up = np.ones((2, 12), np.float32), np.ones((12, 2), np.float32)
    peft.write(path, {"text_encoder": {layer: Adapter(down, up, 2.0)}})
    safetensors.write(
        path, {**{k: np.array(v) for k, v in TensorFile(path).items()}, **dict(tables)}
    )
    return path


def test_embeddings_inside_a_lora_come_and_go_with_it(folders, files, tmp_path):
    sd = flax_sd.StableDiffusion.load(folders / "first")
    before = sd.encode_prompt(PROMPTS).text
    tensors = {f"bundle_emb.<cat>.{k}": np.array(v) for k, v in TensorFile(files[0]).items()}
    path = bundled(tmp_path / "l.safetensors", *tensors.items())
    with pytest.raises(UserError, match="an embedding beside the LoRA.*bundle_emb.<cat>.clip_g"):
        read_lora(path)  # where they would be lost
    name = sd.add_lora(path)
    together = sd.encode_prompt(PROMPTS)
    assert sd.tokenizers[1].encode("<cat>") == NEW
    sd.remove_lora(name)
    assert np.array_equal(sd.encode_prompt(PROMPTS).text, before)
    assert sd.tokenizers[1].encode("<cat>") != NEW
    sd.add_lora(bundled(tmp_path / "plain.safetensors"))
    sd.add_embedding(files[0])
    assert np.array_equal(sd.encode_prompt(PROMPTS).text, together.text)
    with pytest.raises(UserError, match="an embedding called '<cat>' exists already"):
        sd.add_lora(path)
    assert list(sd.loras) == ["plain"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("bundle_emb.<b>.clip_l", "embedding <b> holds clip_l .* alone: this model is SDXL"),
        ("bundle_emb.<b>.string_to_param.*", "<b> holds .*: this model is SDXL and reads clip_l"),
        ("bundle_emb.<b>.other", "holds bundle_emb.<b>.other .*, an embedding beside the LoRA"),
    ],
)
def test_embeddings_inside_a_lora_that_do_not_fit(folders, tmp_path, key, message):
    sd = flax_sd.StableDiffusion.load(folders / "first")
    with pytest.raises(UserError, match=message):
        sd.add_lora(bundled(tmp_path / "l.safetensors", (key, np.ones((2, 12), np.float32))))
    good = [(f"bundle_emb.<a>.{k}", np.ones((2, n), np.float32)) for k, n in WIDTHS.items()]
    path = bundled(tmp_path / "m.safetensors", *good, layer="no.such")
    with pytest.raises(UserError, match="does not fit the model"):
        sd.add_lora(path)
    assert not sd.loras and len(sd.tokenizers[0].encode("<a>")) > 2
    assert sd.text_encoders[0].text_model.embeddings.new_tokens is None


def test_an_embedding_inside_a_lora_of_one_text_encoder(tmp_path):
    """A1111's form, of Stable Diffusion 1.x and 2.x."""
    tiny.save("sd1", tmp_path / "sd1")
    sd = flax_sd.StableDiffusion.load(tmp_path / "sd1")
    key = "bundle_emb.<b>.string_to_param.*"
    name = sd.add_lora(bundled(tmp_path / "l.safetensors", (key, np.ones((2, 12), np.float32))))
    assert sd.tokenizers[0].encode("<b>") == NEW[:2]
    sd.remove_lora(name)
    assert sd.tokenizers[0].encode("<b>") != NEW[:2]
