"""The Python interface: LoRAs and model folders, in and out, and what is refused of them."""

import json
import shutil

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import flax_sd
from flax_sd.errors import UserError
from flax_sd.weights.diffusers_folder import read_json
from flax_sd.weights.safetensors import TensorFile
from tests import tiny
from tests.parity import NETWORK, assert_close
from tests.tiny import NEGATIVES, PROMPTS, SEEDS, SIZE, STEPS


def edited(folders, tmp_path, name, **changes):
    """A copy of the SD 1 folder with fields of one JSON changed."""
    folder = tmp_path / "edited"
    shutil.copytree(folders / "sd1", folder)
    config = read_json(folder / name) | changes
    (folder / name).write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def style(tmp_path_factory):
    """A random LoRA over two layers of the UNet."""
    rng, block = np.random.default_rng(0), "mid_block.attentions.0.transformer_blocks.0"
    layers = {
        f"{block}.{layer}": (rng.normal(size=(3, c_in)), rng.normal(size=(8, 3)))
        for layer, c_in in (("attn1.to_q", 8), ("attn2.to_v", 12))
    }
    return tiny.write_lora(tmp_path_factory.mktemp("lora") / "style.safetensors", layers)


def test_a_lora_comes_and_goes(pairs, style):
    sd, _ = pairs["sd1"]
    given = {"output": "latents", **STEPS}
    before = sd.generate(PROMPTS, **given)
    assert sd.add_lora(style) == "style"
    strong = sd.generate(PROMPTS, **given)
    assert sd.add_lora(style) == "style_2"  # U8: as another run's lora.safetensors
    sd.remove_lora("style_2")
    with pytest.raises(UserError, match="a LoRA called 'style' exists already"):
        sd.add_lora(style, name="style")
    assert sd.add_lora(style, -1.0, name="its opposite") == "its opposite"
    assert_close(sd.generate(PROMPTS, **given), before, NETWORK)
    sd.remove_lora("style")
    sd.remove_lora("its opposite")
    assert np.array_equal(before, sd.generate(PROMPTS, **given)) and not np.allclose(before, strong)
    with pytest.raises(UserError, match="there is no LoRA called 'style'; there is none"):
        sd.remove_lora("style")


def test_a_image_with_a_lora_is_diffusers(pairs, folders, style):
    theirs = tiny.load(folders / "sd1")
    theirs.load_lora_weights(style.parent, weight_name=style.name)
    theirs.set_adapters(theirs.get_active_adapters(), 0.7)
    expected = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, **STEPS)
    sd, _ = pairs["sd1"]
    sd.add_lora(style, 0.7)
    actual = sd.generate(PROMPTS, NEGATIVES, seed=3, output="latents", **STEPS)
    sd.remove_lora("style")
    assert_close(actual, expected, NETWORK)


def test_a_saved_folder_has_the_bytes_that_were_loaded(pairs, folders, style, tmp_path):
    sd, _ = pairs["sd1"]
    sd.add_lora(style)
    sd.save(tmp_path / "saved")
    sd.remove_lora("style")
    for name in (
        "unet/diffusion_pytorch_model",
        "vae/diffusion_pytorch_model",
        "text_encoder/model",
    ):
        ours = TensorFile(tmp_path / "saved" / f"{name}.safetensors")
        theirs = TensorFile(folders / "sd1" / f"{name}.safetensors")
        read = {key.removeprefix("text_model."): ours[key] for key in ours}
        assert read.keys() == theirs.keys()
        assert all(read[key].tobytes() == theirs[key].tobytes() for key in theirs)
    expected = tiny.draw(tiny.load(tmp_path / "saved"), PROMPTS, NEGATIVES, SEEDS, **STEPS)
    drawn = sd.generate(PROMPTS, NEGATIVES, seed=3, output="latents", **STEPS)
    assert_close(drawn, expected, NETWORK)
    again = flax_sd.StableDiffusion.load(tmp_path / "saved")
    assert np.array_equal(again.encode_prompt(PROMPTS).text, sd.encode_prompt(PROMPTS).text)


@pytest.mark.slow
def test_variants_and_dtypes(folders, tmp_path):
    tiny.build("sd1").to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    with pytest.raises(UserError, match="name the variant"):
        flax_sd.StableDiffusion.load(tmp_path / "half")
    sd = flax_sd.StableDiffusion.load(tmp_path / "half", "bfloat16", variant="fp16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(sd.unet))} == {"bfloat16"}
    image = sd.generate("a", num_inference_steps=2, output="float", **SIZE)
    assert image.dtype == np.float32 and np.isfinite(image).all()
    assert sd.encode_prompt("a").text.dtype == np.float32
    sd.save(tmp_path / "saved")
    assert (
        TensorFile(tmp_path / "saved/text_encoder/model.safetensors").dtype(
            "text_model.final_layer_norm.bias"
        )
        == jnp.bfloat16
    )
    assert read_json(tmp_path / "saved/text_encoder/config.json")["dtype"] == "bfloat16"
    assert tiny.load(tmp_path / "saved").text_encoder.dtype == torch.bfloat16


def test_what_a_pipeline_says_of_itself(pairs, folders):
    sd, _ = pairs["sd2"]
    assert (sd.family, pairs["sd1"][0].family) == ("sd2", "sd1")
    assert sd.source == str(folders / "sd2") and sd.stride == 2
    assert sd.scheduler_config["_class_name"] == "DDIMScheduler"
    assert sd.configs["unet"]["attention_head_dim"] == [2]
    assert len(sd.text_encoders) == len(sd.tokenizers) == 1


def test_a_text_encoder_that_is_replaced_reads_prompts_and_is_saved(folders, tmp_path):
    sd, other = (flax_sd.StableDiffusion.load(folders / "sd1") for _ in range(2))
    halved = nnx.state(other.text_encoders[0])
    nnx.update(other.text_encoders[0], jax.tree.map(lambda leaf: leaf / 2, halved))
    sd.text_encoders[0] = other.text_encoders[0]
    states = sd.encode_prompt("a cat").text
    assert np.array_equal(states, other.encode_prompt("a cat").text)
    sd.save(tmp_path / "saved")
    saved = flax_sd.StableDiffusion.load(tmp_path / "saved")
    assert np.array_equal(saved.encode_prompt("a cat").text, states)


def test_parts_in_memory_make_a_pipeline(pairs, folders):
    sd, _ = pairs["sd1"]
    parts = {"unet": sd.unet, "vae": sd.vae, "text_encoder": sd.text_encoders[0]}
    other = flax_sd.StableDiffusion.from_parts(
        folder=folders / "sd1", tokenizer=sd.tokenizers[0], **parts
    )
    assert other.unet is sd.unet and other.vae is sd.vae and other.family == "sd1"
    assert np.array_equal(other.encode_prompt("a").text, sd.encode_prompt("a").text)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusion3Pipeline"},
            "is a StableDiffusion3Pipeline",
        ),
        ("unet/config.json", {"in_channels": 9}, "shape of conv_in.weight"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type"),
        ("model_index.json", {"scheduler": ["diffusers", "Heun"]}, "'Heun'"),
    ],
)
def test_folders_that_cannot_be_used(folders, tmp_path, name, changes, message):
    folder = edited(folders, tmp_path, name, **changes)
    with pytest.raises(UserError, match=message):
        flax_sd.StableDiffusion.load(folder).generate("a", num_inference_steps=1)


def test_parts_that_do_not_fit_each_other(folders, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(folders / "sd1", folder)
    kind = diffusers.UNet2DConditionModel
    config = {**kind.load_config(folders / "sd1" / "unet"), "in_channels": 9}
    kind.from_config(config, cross_attention_dim=16).save_pretrained(folder / "unet")
    with pytest.raises(UserError) as caught:
        flax_sd.StableDiffusion.load(folder)
    assert "its components do not fit: the UNet reads 9 channels, the VAE has 4" in str(
        caught.value
    )
    assert "the UNet reads text of width 16, the text encoder has width 12" in str(caught.value)


def test_sources_that_are_no_model(tmp_path):
    with pytest.raises(UserError, match="is not a diffusers model: it has no model_index.json"):
        flax_sd.StableDiffusion.load(tmp_path)
    with pytest.raises(UserError, match=r"folder /no/where does not exist"):
        flax_sd.StableDiffusion.load("/no/where")
    with pytest.raises(UserError, match="dtype 'int8' is not one of float32, bfloat16, float16"):
        flax_sd.StableDiffusion.load(tmp_path, dtype="int8")


def test_paths_begin_at_home(pairs, style, tmp_path, monkeypatch):
    """F11's sibling: `~` in each function of the Python interface that takes a path."""
    sd, _ = pairs["sd1"]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(style, tmp_path / "mine.safetensors")
    assert sd.add_lora("~/mine.safetensors") == "mine"
    sd.remove_lora("mine")
    with pytest.raises(UserError, match=f"{tmp_path}/none.safetensors is not there"):
        sd.add_embedding("~/none.safetensors")
    sd.save("~/saved")
    assert (tmp_path / "saved" / "model_index.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.safetensors", "saved"]
    for function in (sd.save, sd.add_lora, sd.add_embedding, flax_sd.StableDiffusion.load):
        with pytest.raises(UserError, match="is empty: name a file or a folder"):
            function("")
