"""The Python interface: whole images against diffusers, and what a call may ask for."""

import inspect

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
from flax_sd.models.layers import Network
from flax_sd.pipelines.options import Options
from flax_sd.pipelines.programs import Programs
from tests import tiny
from tests.parity import LAYER, NETWORK, assert_close
from tests.tiny import NEGATIVES, PROMPTS, SEEDS, STEPS


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
def test_a_whole_image_is_diffusers(pairs, family, name):
    ours, theirs = pairs[family]
    options = {"guidance_scale": 7.5, **STEPS}
    kind = samplers.SAMPLERS[name].class_name if name else type(theirs.scheduler).__name__
    with tiny.scheduler(theirs, kind):
        latents = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, **options)
        pixels = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, "np", **options)
    arguments = {"sampler": name, "seed": SEEDS[0], **options}
    assert_close(ours.generate(PROMPTS, NEGATIVES, output="latents", **arguments), latents, NETWORK)
    images = ours.generate(PROMPTS, NEGATIVES, **arguments)
    assert images.dtype == np.uint8 and images.shape == (2, 24, 16, 3)
    assert np.abs(images.astype(int) - (pixels * 255).round()).max() <= 1
    assert images.std() > 10


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


class FakeUNet(Network):
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
    sd.unet, sd.programs = FakeUNet(sd.unet.config), Programs()
    return sd


def test_what_a_program_is_compiled_for(quick, tmp_path):
    def traces(prompts=("a", "b"), **changes):
        options = {"num_inference_steps": 2, "output": "latents", "height": 16, "width": 24}
        images = quick.generate(prompts, **{**options, **changes})
        return quick.programs.traces["sample"], images

    count, first = traces()
    assert count == 1
    for changes in (
        {"prompts": ("c", "d")},
        {"negative_prompt": "x"},
        {"seed": 9},
        {"seed": [5, 1]},
        {"guidance_scale": 3.0},
    ):
        count, images = traces(**changes)
        assert count == 1 and not np.array_equal(images, first), changes
    adapters = [np.random.default_rng(seed).normal(size=(2, 3, 4)) for seed in (1, 2)]
    for name, (down, up) in zip(("one", "two"), adapters, strict=True):
        tiny.write_lora(
            tmp_path / f"{name}.safetensors", {"first": (down, up.T), "second": (down, up.T)}
        )
    quick.add_lora(tmp_path / "one.safetensors")
    assert traces()[0] == 2
    quick.remove_lora("one")
    assert traces()[0] == 2
    quick.add_lora(tmp_path / "two.safetensors", 0.3, "another name")
    assert traces()[0] == 2
    assert traces(guidance_scale=1.0)[0] == 3
    assert traces(num_inference_steps=3)[0] == 3
    assert traces(height=24)[0] == 4
    assert traces(prompts=["a"])[0] == 5
    assert traces(sampler="euler")[0] == 5
    assert traces(sampler="euler_a")[0] == 6  # which draws noise at its steps
    assert quick.programs.traces["encode"] == 2 and quick.programs.traces["decode"] == 0


def test_a_lora_is_scaled_anew_without_reading_or_compiling(quick, tmp_path):
    file = tmp_path / "style.safetensors"
    down, up = np.random.default_rng(1).normal(size=(2, 3, 4))
    tiny.write_lora(file, {"first": (down, up.T), "second": (down, up.T)})
    given = {"num_inference_steps": 2, "output": "latents"}
    expected = {}
    for scale in (0.0, 0.3, 1.0):
        name = quick.add_lora(file, scale)
        expected[scale] = quick.generate("a", **given)
        quick.remove_lora(name)
    assert quick.add_lora(file, 0.0) == "style" and quick.loras == {"style": 0.0}
    file.unlink()
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event)
    )
    for scale in (0.3, 1.0, 0.0):
        quick.set_lora_scale("style", scale)
        assert np.array_equal(quick.generate("a", **given), expected[scale]), scale
    event = "/jax/core/compile/backend_compile_duration"
    assert event not in compiled
    jax.jit(lambda x: x + scale)(1.0)
    assert event in compiled  # it would have been seen
    quick.set_lora_scale("style", np.float32(0.5))
    assert quick.loras == {"style": 0.5}
    with pytest.raises(TypeError):
        quick.loras["style"] = 1.0
    with pytest.raises(UserError, match="there is no LoRA called 'styl'; there is style"):
        quick.set_lora_scale("styl", 1.0)
    with pytest.raises(UserError, match="the scale of a LoRA is nan: should be a number"):
        quick.set_lora_scale("style", float("nan"))
    quick.remove_lora("style")
    assert quick.loras == {} and not np.array_equal(expected[0.3], expected[1.0])


def test_images_are_decoded_one_by_one(quick):
    given = {"num_inference_steps": 1, "output": "float", "height": 16, "width": 16}
    three = quick.generate(["a", "b", "c"], **given)
    assert three.shape == (3, 16, 16, 3)
    for k, prompt in enumerate("abc"):
        assert_close(quick.generate(prompt, seed=k, **given)[0], three[k], LAYER)
    assert quick.programs.traces["decode"] == 1  # so however many there are, one is decoded


def test_what_diffusers_leaves_at_none_may_be_none(quick):
    """A10."""
    theirs = inspect.signature(diffusers.StableDiffusionPipeline.__call__).parameters
    ours = {**inspect.signature(quick.generate).parameters, **Options.__annotations__}
    names = [name for name in ours if name in theirs and theirs[name].default is None]
    assert {"negative_prompt", "height", "width", "latents", "clip_skip"} <= {*names}
    given = {"num_inference_steps": 1, "output": "latents"}
    unset = quick.generate("a", **given, **dict.fromkeys(names))
    np.testing.assert_array_equal(unset, quick.generate("a", **given))
    states = quick.encode_prompt("a", clip_skip=None).text
    np.testing.assert_array_equal(states, quick.encode_prompt("a").text)


def test_the_size_is_what_the_unet_was_trained_on(quick):
    given = {"num_inference_steps": 1, "output": "latents"}
    assert quick.generate("a", **given).shape == (1, 6, 6, 4)
    assert quick.generate("a", height=10, **given).shape == (1, 5, 6, 4)


def test_a_image_is_the_same_in_a_batch_and_alone(pairs):
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
    pixels = sd.generate(PROMPTS, **given)
    assert np.array_equal(pixels, (whole * 255).round().astype(np.uint8))
    pil = sd.generate(PROMPTS, output="pil", **given)
    assert [image.size for image in pil] == [(16, 24)] * 2 and np.array_equal(np.stack(pil), pixels)
    noise = samplers.initial_noise([5, 6], 12, 8, 4)
    drawn = sd.generate(PROMPTS, latents=noise, output="latents", **given)
    assert type(drawn) is np.ndarray and drawn.shape == (2, 12, 8, 4)
    assert np.array_equal(drawn, sd.generate(PROMPTS, output="latents", **given))


def test_given_latents_give_the_size_and_leave_the_stream_to_the_steps(pairs):
    ours, theirs = pairs["sd1"]
    noise = torch.randn(2, 4, 12, 8, generator=torch.Generator().manual_seed(0))
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
    with pytest.raises(UserError, match="clip_skip is 3: this text encoder has 2 layers"):
        ours.encode_prompt("a", clip_skip=3)


def test_clip_skip_leaves_the_negative_prompt_alone(pairs):
    sd, _ = pairs["sd1"]
    given = {"output": "latents", **STEPS}
    same = sd.generate(PROMPTS, PROMPTS, **given)  # equal halves: guidance changes nothing
    assert_close(same, sd.generate(PROMPTS, guidance_scale=1.0, **given), NETWORK)
    assert not np.allclose(same, sd.generate(PROMPTS, PROMPTS, clip_skip=1, **given))


def test_longer_prompts_are_read_in_chunks(quick):
    long, given = "cat " * 76, {"num_inference_steps": 1, "output": "latents"}
    states = quick.encode_prompt([long, ""], clip_skip=1, max_token_length=225).text
    assert states.shape == (2, 227, 12)
    chunks = quick.encode_prompt(["cat " * 75, "cat", ""], clip_skip=1).text
    assert_close(states[0], np.concatenate([chunks[0, :-1], chunks[1, 1:-1], chunks[2, 1:]]), LAYER)
    images = {
        length: [
            quick.generate(prompt, negative, seed=1, max_token_length=length, **given)
            for prompt, negative in ((long + "red", "bad"), (long, "bad"), (long, long), (long, ""))
        ]
        for length in (75, 150)
    }
    assert np.array_equal(*images[75][:2]) and not np.array_equal(*images[150][:2])
    assert not np.array_equal(*images[150][2:])
    plain = quick.generate(long, "bad", seed=1, **given)
    assert np.array_equal(plain, images[75][0])
    with pytest.raises(UserError, match="max_token_length is 100: should be 75, 150 or 225"):
        quick.generate("a", max_token_length=100, **given)


def test_the_unet_is_a_module_of_arrays(pairs):
    sd, _ = pairs["sd1"]
    graph, state = nnx.split(sd.unet)
    x, text = jnp.ones((2, 5, 3, 4)), jnp.ones((2, 77, 12))
    direct = jax.jit(lambda t: sd.unet(x, t, text))
    merged = jax.jit(lambda state: nnx.merge(graph, state)(x, jnp.array([7, 7]), text))
    assert direct(jnp.array([7, 7])).shape == x.shape
    assert np.array_equal(direct(jnp.array([7, 7])), direct(jnp.array([7.0, 7.0])))
    assert_close(merged(state), direct(jnp.array([7, 7])), LAYER)


def test_arguments_that_cannot_be(pairs, tmp_path):
    sd, _ = pairs["sd1"]
    for arguments, message in [
        ({"sampler": "eular"}, "there is no sampler 'eular'.*euler"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"num_inference_steps": 0}, "0"),
        ({"height": 21, "seed": [1, 2]}, "2 seeds for 1 prompts.*height is 21"),
    ]:
        with pytest.raises(UserError, match=message):
            sd.generate("a", **arguments)
    with pytest.raises(UserError, match="pickles are not written; name a folder, or a file as x"):
        sd.save(tmp_path / "x.ckpt")


def test_a_callback_sees_each_step_and_changes_nothing(quick):
    seen = []
    given = {"num_inference_steps": 3, "sampler": "euler_a", "height": 16, "output": "latents"}
    plain = quick.generate(["a", "b"], **given)
    told = quick.generate(["a", "b"], callback=lambda *each: seen.append(each), **given)
    assert np.array_equal(told, plain)
    assert [(step, steps) for step, steps, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert all(type(x) is np.ndarray and x.shape == plain.shape for *_, x in seen)
    assert np.array_equal(seen[-1][2], plain) and not np.array_equal(seen[0][2], plain)
    assert quick.programs.traces["sample"] == 1  # one program with and without


def test_a_callback_that_raises_ends_the_call(quick):
    class Enough(Exception):
        pass

    def stop(step, steps, latents):
        seen.append(step)
        if step == 2:
            raise Enough

    seen, given = [], {"num_inference_steps": 5, "sampler": "ddim", "output": "latents"}
    with pytest.raises(Enough):
        quick.generate("a", callback=stop, **given)
    assert seen == [1, 2]
    assert np.isfinite(quick.generate("a", **given)).all()
