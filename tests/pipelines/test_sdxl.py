"""SDXL: two text encoders, pooled text, sizes and crop, against diffusers' pipeline."""

import json

import diffusers
import jax
import numpy as np
import pytest
import torch
from flax import nnx

import flax_sd
from flax_sd.errors import UserError
from flax_sd.lora.adapter import Adapter
from flax_sd.lora.formats import peft
from flax_sd.pipelines.programs import guide
from tests import parity, tiny
from tests.parity import LAYER, NETWORK, assert_close
from tests.tiny import NEGATIVES, PROMPTS, SEEDS, STEPS

# NumPy 2 about the Euler schedulers of diffusers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

# As `train_text_to_image_sdxl.py` and the v-prediction models of today's have it.
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
KINDS = {
    "epsilon": tiny.build_xl,
    "v": lambda: tiny.build_xl("v_prediction", "DDIMScheduler", clip_sample=False, **ZERO_SNR),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sdxl")
    for name, build in KINDS.items():
        build().save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def pairs(folders):
    return {
        name: (flax_sd.StableDiffusion.load(folders / name), tiny.load(folders / name))
        for name in KINDS
    }


@pytest.fixture
def pair(pairs):
    return pairs["epsilon"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_image_is_diffusers(pairs, kind):
    """Traps 7, 9, 13, 18: the states, the second tokenizer's padding, sizes, zero SNR."""
    ours, theirs = pairs[kind]
    assert ours.family == "sdxl" and len(ours.text_encoders) == len(ours.tokenizers) == 2
    assert [tokenizer.pad for tokenizer in ours.tokenizers] == [49407, 0]
    options = {"guidance_scale": 7.5, "guidance_rescale": 0.7 * (kind == "v"), **STEPS}
    latents = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, **options)
    pixels = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, "np", **options)
    given = {"seed": SEEDS[0], **options}
    assert_close(ours.generate(PROMPTS, NEGATIVES, output="latents", **given), latents, NETWORK)
    images = ours.generate(PROMPTS, NEGATIVES, **given)
    assert np.abs(images.astype(int) - (pixels * 255).round()).max() <= 2
    assert images.shape == (2, 24, 16, 3) and images.std() > 10


CONDITIONS = [
    {"prompt_2": ["one dog", "a"], "negative_prompt_2": ["ugly", "b"]},
    {"original_size": (1023, 767), "crops_coords_top_left": (64, 3), "target_size": (512, 768)},
    {"clip_skip": 1},
]


@pytest.mark.parametrize("changes", CONDITIONS, ids=["second prompts", "sizes", "clip skip"])
def test_what_the_unet_is_told_is_diffusers(pair, changes):
    ours, theirs = pair
    expected = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, guidance_scale=5.0, **STEPS, **changes)
    given = {"seed": SEEDS, "guidance_scale": 5.0, "output": "latents", **STEPS}
    drawn = ours.generate(PROMPTS, NEGATIVES, **given, **changes)
    assert_close(drawn, expected, NETWORK)
    plain = ours.generate(PROMPTS, NEGATIVES, **given)
    assert np.abs(drawn - plain).max() > 1e-3 * np.abs(plain).max()


def test_negative_sizes_are_those_of_the_negative_half(pair):
    """Trap 14: diffusers mixes them up with several prompts; with one it is right."""
    ours, theirs = pair
    names = ("original_size", "crops_coords_top_left", "target_size")
    sizes = dict(zip((f"negative_{n}" for n in names), [(90, 80), (7, 5), (60, 40)], strict=True))
    given = {"seed": 3, "guidance_scale": 5.0, "output": "latents", **STEPS}
    expected = tiny.draw(theirs, ["a cat"], ["bad"], [3], guidance_scale=5.0, **STEPS, **sizes)
    one = ours.generate("a cat", "bad", **given, **sizes)
    assert_close(one, expected, NETWORK)
    two = ours.generate(["a cat", "a dog"], "bad", **given, **sizes)
    assert_close(two[:1], one, LAYER)
    crop = {"crops_coords_top_left": (20, 0)}  # diffusers' own default of the negative one is 0, 0
    del sizes["negative_crops_coords_top_left"]
    expected = tiny.draw(
        theirs, ["a cat"], ["bad"], [3], guidance_scale=5.0, **STEPS, **sizes, **crop
    )
    assert_close(ours.generate("a cat", "bad", **given, **sizes, **crop), expected, NETWORK)


@pytest.mark.parametrize("negative", [None, ""])
def test_no_negative_prompt_is_zeros_and_an_empty_one_is_read(pair, negative):
    """Trap 10."""
    ours, theirs = pair
    expected = tiny.draw(theirs, PROMPTS, negative, SEEDS, guidance_scale=5.0, **STEPS)
    given = {"seed": SEEDS, "guidance_scale": 5.0, "output": "latents", **STEPS}
    assert_close(ours.generate(PROMPTS, negative, **given), expected, NETWORK)


def test_the_index_may_say_that_no_prompt_is_an_empty_one(folders, tmp_path):
    index = json.loads((folders / "epsilon" / "model_index.json").read_text())
    index["force_zeros_for_empty_prompt"] = False
    for part in (folders / "epsilon").iterdir():
        (tmp_path / part.name).symlink_to(part) if part.is_dir() else None
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    sd = flax_sd.StableDiffusion.load(tmp_path)
    given = {"num_inference_steps": 1, "output": "latents"}
    none, empty = (sd.generate("a", negative, **given) for negative in (None, ""))
    np.testing.assert_array_equal(none, empty)


def test_states_are_diffusers(pair):
    ours, theirs = pair
    with torch.no_grad():
        text, _, pooled, _ = theirs.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    states = ours.encode_prompt(PROMPTS)
    assert states.text.shape == (2, 77, 22) and states.pooled.shape == (2, 9)
    assert_close(states.text, text, LAYER)
    assert_close(states.pooled, pooled, LAYER)
    long = ours.encode_prompt(PROMPTS, max_token_length=150)
    assert long.text.shape == (2, 152, 22)


def test_pooled_at_the_first_end_of_text(pair):
    """Trap 8: transformers takes the largest id, which is that of a learned token."""
    encoder = pair[0].text_encoders[1]
    ids = np.full((2, 77), 0)
    ids[:, 0], ids[:, 1:4], ids[:, 4] = 49406, 320, 49407
    ids[1, 6] = 49407
    a, b = np.asarray(encoder(jax.numpy.asarray(ids)).pooled)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    with torch.no_grad():
        expected = pair[1].text_encoder_2(torch.tensor(ids)).text_embeds
    assert_close(np.stack([a, b]), expected, LAYER)


def test_a_lora_of_either_text_encoder(pair, tmp_path):
    ours, _ = pair
    given = {"num_inference_steps": 1, "output": "latents", "seed": 0}
    before = ours.generate("a cat", **given)
    rng = np.random.default_rng(0)

    def adapter(c_in, c_out):
        down, up = rng.normal(size=(2, c_in)), rng.normal(size=(c_out, 2))
        return Adapter(down.astype(np.float32), up.astype(np.float32), 2.0)

    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    parts = {"text_encoder": {layer: adapter(12, 12)}, "text_encoder_2": {layer: adapter(10, 10)}}
    for name, adapters in parts.items():
        path = tmp_path / f"{name}.safetensors"
        peft.write(path, {name: adapters})
        added = ours.add_lora(path)
        after = ours.generate("a cat", **given)
        assert np.abs(after - before).max() > 1e-4
        ours.remove_lora(added)
        np.testing.assert_array_equal(ours.generate("a cat", **given), before)


def test_saved_folders_are_read_by_diffusers(pairs, tmp_path):
    ours, theirs = pairs["v"]
    ours.save(tmp_path / "saved")
    again = tiny.load(tmp_path / "saved")
    assert type(again) is diffusers.StableDiffusionXLPipeline
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        ours_now = parity.numpy_state(getattr(again, name))
        for key, tensor in parity.numpy_state(getattr(theirs, name)).items():
            np.testing.assert_array_equal(ours_now[key], tensor, err_msg=f"{name}.{key}")
    assert again.scheduler.config.prediction_type == "v_prediction"
    assert again.tokenizer_2.pad_token == "!"


def test_float16_is_decoded_in_float32(pair):
    """Trap 21: activations of the decoder are too large for float16."""
    vae = pair[0].vae
    graph, state = nnx.split(vae)
    half = nnx.merge(graph, jax.tree.map(lambda x: x.astype("float16"), state))
    scale = np.float32(3e4)  # of the first convolution: 65504 is the largest number
    half.decoder.conv_in.kernel[...] *= scale.astype("float16")
    latents = 0.5 + np.random.default_rng(0).normal(size=(1, 3, 2, 4)).astype(np.float32)
    images = np.asarray(pair[0].programs.decode(half, jax.numpy.asarray(latents)))
    assert np.isfinite(images).all() and images.std() > 0


def test_rescaled_guidance_is_diffusers():
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
        rescale_noise_cfg,
    )

    rng = np.random.default_rng(0)
    negative, positive = (0.3 + rng.normal(size=(2, 3, 5, 4)).astype(np.float32) for _ in "ab")
    guided = negative + np.float32(7.5) * (positive - negative)
    expected = rescale_noise_cfg(parity.to_torch(guided), parity.to_torch(positive), 0.7)
    found = guide(*map(jax.numpy.asarray, (negative, positive, np.float32(7.5), np.float32(0.7))))
    assert_close(found, expected, LAYER)


WRONG = [
    ({"original_size": 3, "target_size": (-1, 2)}, r"original_size is 3: .* target_size is \(-1"),
    ({"original_size": (10**400, 1)}, "original_size is .*: should be from 0 to 1048576"),
    ({"original_size": {1, 2}}, "original_size is {1, 2}: should be two whole numbers"),
    ({"negative_original_size": (8, 8)}, "negative_target_size is missing: give it with the other"),
    ({"negative_prompt": None, "negative_prompt_2": "x"}, "negative_prompt is None: give both"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_has_no_meaning_is_named(pair, options, message):
    with pytest.raises(UserError, match=message):
        pair[0].generate("a", num_inference_steps=1, **options)


def test_an_empty_second_prompt_is_the_first(pair):
    given = {"num_inference_steps": 1, "output": "latents", "seed": 0}
    plain = pair[0].generate("a", "b", **given)
    same = pair[0].generate("a", "b", prompt_2="", negative_prompt_2="", **given)
    np.testing.assert_array_equal(same, plain)


def test_wrong_options_are_named(pair, folders):
    sd, given = pair[0], {"num_inference_steps": 1}
    with pytest.raises(UserError, match="1 texts as prompt_2 for 2 prompts"):
        sd.generate(["a", "b"], prompt_2=["c"], **given)
    with pytest.raises(TypeError, match="unexpected keyword argument 'orginal_size'"):
        sd.generate("a", orginal_size=(1, 2), **given)
    base = flax_sd.StableDiffusion.load("bundled:base")
    with pytest.raises(UserError, match="original_size: only SDXL reads this"):
        base.generate("a", original_size=(8, 8), **given)
    with pytest.raises(UserError, match="prompt_2: only SDXL's base model reads this"):
        base.encode_prompt("a", prompt_2="b")
