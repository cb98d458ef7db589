"""The Python interface: whole pictures against diffusers, loading, LoRAs, saving."""

import json
import shutil
import textwrap

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import flax_sd
from flax_sd import samplers
from flax_sd.errors import UserError
from flax_sd.lora.adapter import Adapter
from flax_sd.lora.files import write_peft
from flax_sd.weights.folder import read_json
from flax_sd.weights.safetensors import TensorFile
from tests import tiny
from tests.parity import LAYER, NETWORK, assert_close
from tests.processes import finish, start

PROMPTS, NEGATIVES, SEEDS = ["a cat", "two DOGS, one bone!"], ["bad", "worse hands"], [3, 4]
SIZE = {"height": 40, "width": 24}  # 5x3 latents: odd, and h != w
STEPS = {"num_inference_steps": 4, **SIZE}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for family in ("sd1", "sd2"):
        tiny.save(family, root / family)
    return root


@pytest.fixture(scope="session")
def pairs(folders):
    return {
        family: (flax_sd.StableDiffusion.load(folders / family), tiny.load(folders / family))
        for family in ("sd1", "sd2")
    }


def edited(folders, tmp_path, name, **changes):
    """A copy of the SD 1 folder with fields of one JSON changed."""
    folder = tmp_path / "edited"
    shutil.copytree(folders / "sd1", folder)
    config = read_json(folder / name) | changes
    (folder / name).write_text(json.dumps(config))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, name",
    [
        ("sd1", None),  # PNDM
        ("sd1", "euler_a"),
        ("sd2", None),  # DDIM, v-prediction
        ("sd2", "euler"),
    ],
)
def test_a_whole_picture_is_diffusers(pairs, family, name):
    ours, theirs = pairs[family]
    options = {"guidance_scale": 7.5, **STEPS}
    kind = samplers.SAMPLERS[name].class_name if name else type(theirs.scheduler).__name__
    with tiny.scheduler(theirs, kind):
        latents = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, **options)
        pixels = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, "np", **options)
    arguments = {"sampler": name, "seed": SEEDS[0], **options}
    assert_close(ours.generate(PROMPTS, NEGATIVES, output="latents", **arguments), latents, NETWORK)
    pictures = ours.generate(PROMPTS, NEGATIVES, **arguments)
    assert pictures.dtype == np.uint8 and pictures.shape == (2, 40, 24, 3)
    assert np.abs(pictures.astype(int) - (pixels * 255).round()).max() <= 1
    assert pictures.std() > 10


def test_ddim_of_an_sd1_checkpoint(pairs):
    ours, theirs = pairs["sd1"]
    with tiny.scheduler(theirs, "DDIMScheduler", clip_sample=False):  # as SD 1.x's own files
        expected = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, guidance_scale=7.5, **STEPS)
        config = dict(theirs.scheduler.config)
    actual = ours.generate(
        PROMPTS, NEGATIVES, sampler=config, seed=SEEDS, output="latents", **STEPS
    )
    assert_close(actual, expected, NETWORK)


def test_without_guidance_the_negative_prompt_is_not_read(pairs):
    ours, theirs = pairs["sd1"]
    expected = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, guidance_scale=1.0, **STEPS)
    given = {"guidance_scale": 1.0, "output": "latents", "seed": SEEDS, **STEPS}
    actual = ours.generate(PROMPTS, NEGATIVES, **given)
    assert_close(actual, expected, NETWORK)
    assert np.array_equal(actual, ours.generate(PROMPTS, "other", **{**given, "guidance_scale": 0}))


class FakeUNet(nnx.Module):
    """Quick to compile; its two layers can take LoRAs."""

    def __init__(self, config):
        self.config = config
        self.first, self.second = (nnx.Linear(4, 4, rngs=nnx.Rngs(i)) for i in range(2))

    def __call__(self, latents, t, text):
        shift = 1e-3 * t[:, None, None, None] + text.mean((1, 2))[:, None, None, None]
        return self.second(jnp.tanh(self.first(latents) + shift))


@pytest.fixture
def quick(folders):
    """A pipeline of a test's own that compiles in no time."""
    sd = flax_sd.StableDiffusion.load(folders / "sd1")
    sd.unet = FakeUNet(sd.unet.config)
    return sd


def test_what_a_program_is_compiled_for(quick, tmp_path):
    def traces(prompts=("a", "b"), **changes):
        options = {"num_inference_steps": 2, "output": "latents", "height": 16, "width": 24}
        pictures = quick.generate(prompts, **{**options, **changes})
        return quick.programs.traces["sample"], pictures

    count, first = traces()
    assert count == 1
    for changes in (
        {"prompts": ("c", "d")},
        {"negative_prompt": "x"},
        {"seed": 9},
        {"seed": [5, 1]},
        {"guidance_scale": 3.0},
    ):
        count, pictures = traces(**changes)
        assert count == 1 and not np.array_equal(pictures, first), changes
    adapters = [np.random.default_rng(seed).normal(size=(2, 3, 4)) for seed in (1, 2)]
    for name, (down, up) in zip(("one", "two"), adapters, strict=True):
        lora(tmp_path / f"{name}.safetensors", {"first": (down, up.T), "second": (down, up.T)})
    quick.add_lora(tmp_path / "one.safetensors")
    assert traces()[0] == 2
    quick.remove_lora("one")
    assert traces()[0] == 2
    quick.add_lora(tmp_path / "two.safetensors", 0.3, "another name")
    assert traces()[0] == 2
    assert traces(guidance_scale=1.0)[0] == 3
    assert traces(num_inference_steps=3)[0] == 4
    assert traces(height=24)[0] == 5
    assert traces(prompts=["a"])[0] == 6
    assert traces(sampler="euler")[0] == 7
    assert quick.programs.traces["encode"] == 2 and quick.programs.traces["decode"] == 0


def test_the_size_is_what_the_unet_was_trained_on(quick):
    given = {"num_inference_steps": 1, "output": "latents"}
    assert quick.generate("a", **given).shape == (1, 6, 6, 4)
    assert quick.generate("a", height=40, **given).shape == (1, 5, 6, 4)


def test_a_picture_is_the_same_in_a_batch_and_alone(pairs):
    sd, _ = pairs["sd1"]
    given = {"sampler": "euler_a", "output": "latents", **STEPS}
    batch = sd.generate(["a", "b"], seed=7, **given)
    assert np.array_equal(batch, sd.generate(["a", "b"], seed=[7, 8], **given))
    for k, prompt in enumerate("ab"):
        assert_close(sd.generate(prompt, seed=7 + k, **given)[0], batch[k], LAYER)


def test_outputs(pairs):
    sd, _ = pairs["sd1"]
    given = {"seed": 5, **STEPS}
    whole = sd.generate(PROMPTS, output="float", **given)
    assert whole.dtype == np.float32 and whole.min() >= 0 and whole.max() <= 1
    assert np.array_equal(sd.generate(PROMPTS, **given), (whole * 255).round().astype(np.uint8))
    noise = samplers.initial_noise([5, 6], 5, 3, 4)
    drawn = sd.generate(PROMPTS, latents=noise, output="latents", **given)
    assert type(drawn) is np.ndarray and drawn.shape == (2, 5, 3, 4)
    assert np.array_equal(drawn, sd.generate(PROMPTS, output="latents", **given))


def test_given_latents_give_the_size_and_leave_the_stream_to_the_steps(pairs):
    ours, theirs = pairs["sd1"]
    noise = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    with tiny.scheduler(theirs, "EulerAncestralDiscreteScheduler"):
        expected = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, latents=noise, **STEPS)
    actual = ours.generate(
        PROMPTS,
        NEGATIVES,
        num_inference_steps=4,
        sampler="euler_a",
        seed=SEEDS,
        latents=noise.permute(0, 2, 3, 1).numpy(),
        output="latents",
    )
    assert_close(actual, expected, NETWORK)


def test_step_options_reach_the_sampler(pairs):
    sd, _ = pairs["sd2"]
    given = {"output": "latents", **STEPS}
    plain, noisy = (sd.generate(PROMPTS, step_options={"eta": eta}, **given) for eta in (0.0, 1.0))
    assert np.array_equal(plain, sd.generate(PROMPTS, **given)) and not np.allclose(plain, noisy)
    with pytest.raises(UserError, match="s_churn is unknown"):
        sd.generate("a", step_options={"s_churn": 1.0}, **given)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_prompts_are_encoded_as_in_transformers(pairs, family):
    ours, theirs = pairs[family]
    ids = theirs.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        out = theirs.text_encoder(ids, output_hidden_states=True)
        skipped = theirs.text_encoder.final_layer_norm(out.hidden_states[-3])
    states = ours.encode_prompt(PROMPTS)
    assert type(states.text) is np.ndarray and states.pooled is None
    assert_close(states.text, out.last_hidden_state, NETWORK)
    assert_close(ours.encode_prompt(PROMPTS, clip_skip=2).text, skipped, NETWORK)
    with pytest.raises(UserError, match="clip_skip is 4: this text encoder has 3 layers"):
        ours.encode_prompt("a", clip_skip=4)


def test_clip_skip_leaves_the_negative_prompt_alone(pairs):
    sd, _ = pairs["sd1"]
    given = {"output": "latents", **STEPS}
    same = sd.generate(PROMPTS, PROMPTS, **given)  # equal halves: guidance changes nothing
    assert_close(same, sd.generate(PROMPTS, guidance_scale=1.0, **given), NETWORK)
    assert not np.allclose(same, sd.generate(PROMPTS, PROMPTS, clip_skip=1, **given))


def test_the_unet_is_a_module_of_arrays(pairs):
    sd, _ = pairs["sd1"]
    graph, state = nnx.split(sd.unet)
    x, text = jnp.ones((2, 5, 3, 4)), jnp.ones((2, 77, 12))
    direct = jax.jit(lambda t: sd.unet(x, t, text))
    merged = jax.jit(lambda state: nnx.merge(graph, state)(x, jnp.array([7, 7]), text))
    assert direct(jnp.array([7, 7])).shape == x.shape
    assert np.array_equal(direct(jnp.array([7, 7])), direct(jnp.array([7.0, 7.0])))
    assert_close(merged(state), direct(jnp.array([7, 7])), LAYER)


def lora(path, layers):
    """Writes a LoRA of the UNet: dotted path -> (down, up)."""
    adapters = {
        name: Adapter(down.astype(np.float32), up.astype(np.float32), float(len(down)))
        for name, (down, up) in layers.items()
    }
    write_peft(path, {"unet": adapters})
    return path


@pytest.fixture(scope="session")
def style(tmp_path_factory):
    """A random LoRA over two layers of the UNet."""
    rng, block = np.random.default_rng(0), "down_blocks.0.attentions.0.transformer_blocks.0"
    layers = {
        f"{block}.{layer}": (rng.normal(size=(3, c_in)), rng.normal(size=(8, 3)))
        for layer, c_in in (("attn1.to_q", 8), ("attn2.to_v", 12))
    }
    return lora(tmp_path_factory.mktemp("lora") / "style.safetensors", layers)


def test_a_lora_comes_and_goes(pairs, style):
    sd, _ = pairs["sd1"]
    given = {"output": "latents", **STEPS}
    before = sd.generate(PROMPTS, **given)
    assert sd.add_lora(style) == "style"
    strong = sd.generate(PROMPTS, **given)
    with pytest.raises(UserError, match="a LoRA called 'style' is there already"):
        sd.add_lora(style)
    assert sd.add_lora(style, -1.0, name="its opposite") == "its opposite"
    assert_close(sd.generate(PROMPTS, **given), before, NETWORK)
    sd.remove_lora("style")
    sd.remove_lora("its opposite")
    assert np.array_equal(before, sd.generate(PROMPTS, **given)) and not np.allclose(before, strong)
    with pytest.raises(UserError, match="there is no LoRA called 'style'; there is none"):
        sd.remove_lora("style")


def test_a_picture_with_a_lora_is_diffusers(pairs, folders, style):
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
    picture = sd.generate("a", num_inference_steps=2, output="float", **SIZE)
    assert picture.dtype == np.float32 and np.isfinite(picture).all()
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
    assert sd.source == str(folders / "sd2") and sd.stride == 8
    assert sd.scheduler_config["_class_name"] == "DDIMScheduler"
    assert sd.configs["unet"]["attention_head_dim"] == [2, 4]
    assert len(sd.text_encoders) == len(sd.tokenizers) == 1


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
            {"_class_name": "StableDiffusionXLPipeline"},
            "is a StableDiffusionXL",
        ),
        ("unet/config.json", {"in_channels": 9}, "shape of conv_in.weight"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type"),
        ("scheduler/scheduler_config.json", {"_class_name": "Heun"}, "'Heun'"),
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
    assert "its parts do not fit: the UNet reads 9 channels, the VAE makes 4" in str(caught.value)
    assert "the UNet reads text 16 wide, the text encoder's is 12" in str(caught.value)


def test_sources_that_are_no_model(tmp_path):
    with pytest.raises(UserError, match="is not a diffusers model: it has no model_index.json"):
        flax_sd.StableDiffusion.load(tmp_path)
    with pytest.raises(UserError, match=r"folder /no/where does not exist"):
        flax_sd.StableDiffusion.load("/no/where")
    with pytest.raises(UserError, match="dtype 'int8' is not one of float32, bfloat16, float16"):
        flax_sd.StableDiffusion.load(tmp_path, dtype="int8")


def test_arguments_that_cannot_be(pairs, tmp_path):
    sd, _ = pairs["sd1"]
    for arguments, message in [
        ({"output": "pil"}, "output 'pil' is not one of uint8, float, latents"),
        ({"sampler": "eular"}, "there is no sampler 'eular'.*euler"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"num_inference_steps": 0}, "0"),
        ({"height": 20, "seed": [1, 2]}, "2 seeds for 1 prompts.*height is 20"),
    ]:
        with pytest.raises(UserError, match=message):
            sd.generate("a", **arguments)
    with pytest.raises(UserError, match="single files are not written; name a folder"):
        sd.save(tmp_path / "x.safetensors")


DISTRIBUTED = """
    import sys
    import jax, numpy as np
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_default_matmul_precision", "highest")
    import flax_sd
    from flax_sd.errors import UserError
    from flax_sd.sharding import make_mesh
    sd = flax_sd.StableDiffusion.load(sys.argv[1])
    given = dict(num_inference_steps=3, sampler="euler_a", height=40, width=24, output="float")
    alone = sd.generate(["a", "b"], **given)
    sd.distribute(make_mesh(2, 1))
    print(np.abs(sd.generate(["a", "b"], **given) - alone).max())
    try:
        sd.generate(["a", "b", "c"], **given)
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_pictures_are_divided_over_devices(folders):
    difference, error = finish(
        start(textwrap.dedent(DISTRIBUTED), folders / "sd1"), timeout=600
    ).splitlines()
    assert float(difference) <= LAYER
    assert error == "3 prompts: should be a multiple of 2 devices"
