"""SDXL's refiner, and images whose steps two models divide, against diffusers' pipelines."""

import diffusers
import numpy as np
import pytest
import torch

import flax_sd
from flax_sd.errors import UserError
from flax_sd.pipelines.span import cutoff, steps_within
from flax_sd.weights.fill import state_tensors
from flax_sd.weights.model_files import ModelFiles
from tests import tiny
from tests.parity import NETWORK, assert_close
from tests.tiny import NEGATIVES, PROMPTS, SEEDS, SIZE
from tests.weights.ldm.tiny_files import write_single

# NumPy 2 about the Euler schedulers of diffusers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
PARTS = ("unet", "vae", "text_encoder_2")
GIVEN = {"num_inference_steps": 10, "guidance_scale": 5.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("refined")
    tiny.build_xl().save_pretrained(root / "base")
    tiny.build_refiner().save_pretrained(root / "refiner")
    return root


@pytest.fixture(scope="module")
def theirs(folders):
    return {name: tiny.load(folders / name) for name in ("base", "refiner")}


@pytest.fixture(scope="module")
def ours(folders):
    return {name: flax_sd.StableDiffusion.load(folders / name) for name in ("base", "refiner")}


def ensemble(theirs, output_type, end=0.8, start=0.8, **options):
    """diffusers' two pipelines, one after the other; each takes generators of its own."""
    latents = tiny.draw(
        theirs["base"], PROMPTS, NEGATIVES, SEEDS, **GIVEN, **SIZE, denoising_end=end
    )
    image = torch.from_numpy(np.moveaxis(latents, -1, 1).copy())
    options |= {"image": image, "denoising_start": start, **GIVEN}
    return latents, tiny.draw(theirs["refiner"], PROMPTS, NEGATIVES, SEEDS, output_type, **options)


@pytest.mark.slow
def test_base_and_refiner_are_diffusers_from_the_seed_alone(ours, theirs):
    half, pixels = ensemble(theirs, "np")
    given = {"seed": SEEDS, **GIVEN}
    latents = ours["base"].generate(
        PROMPTS, NEGATIVES, denoising_end=0.8, output="latents", **SIZE, **given
    )
    assert_close(latents, half, NETWORK)
    images = ours["refiner"].generate(
        PROMPTS, NEGATIVES, latents=latents, denoising_start=0.8, **given
    )
    assert np.abs(images.astype(int) - (pixels * 255).round()).max() <= 2
    assert images.shape == (2, 24, 16, 3) and images.std() > 10


CHANGES = {
    "usual": {},
    "scores": {"aesthetic_score": 7.25, "negative_aesthetic_score": 1.0},
    "sizes": {
        "original_size": (1023, 767),
        "crops_coords_top_left": (64, 3),
        "negative_original_size": (90, 80),
    },
    "crop": {"crops_coords_top_left": (64, 3)},  # of the other half it stays (0, 0)
    "negative crop": {"negative_crops_coords_top_left": (7, 5)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_the_refiner_is_told_is_diffusers(ours, theirs, name):
    """Trap 13: five numbers, of which the last is the aesthetic score."""
    changes = CHANGES[name]
    latents, expected = ensemble(theirs, "latent", **changes)
    given = {"latents": latents, "denoising_start": 0.8, "output": "latents", "seed": 9, **GIVEN}
    drawn = ours["refiner"].generate(PROMPTS, NEGATIVES, **given, **changes)
    assert_close(drawn, expected, NETWORK)
    if changes:
        plain = ours["refiner"].generate(PROMPTS, NEGATIVES, **given)
        assert np.abs(drawn - plain).max() > 1e-4 * np.abs(plain).max()


def test_ddim_is_cut_at_the_end(ours, theirs):
    """At guidance 5 it would differ by 1.4e-4 of the latents, as diffusers does from itself.

    Its own float32 differs from its float64 by 6.5e-5 at this cut and 1.7e-4 at the end, ours by
    9.3e-5 and 2.5e-4: guidance multiplies the rounding of random networks in each step, and DDIM's
    clipping makes the latents, by which it is divided, small. At 1.5 all are below 4e-5.
    """
    given = {"num_inference_steps": 10, "guidance_scale": 1.5, "denoising_end": 0.8}
    with tiny.scheduler(theirs["base"], "DDIMScheduler"):
        expected = tiny.draw(theirs["base"], PROMPTS, NEGATIVES, SEEDS, **given, **SIZE)
    given |= {"sampler": "ddim", "output": "latents", "seed": SEEDS}
    assert_close(ours["base"].generate(PROMPTS, NEGATIVES, **given, **SIZE), expected, NETWORK / 2)


@pytest.mark.parametrize("sampler", ["ddim", "euler_a"])
def test_other_samplers_go_on_in_between(ours, theirs, sampler):
    name = {"ddim": "DDIMScheduler", "euler_a": "EulerAncestralDiscreteScheduler"}[sampler]
    with tiny.scheduler(theirs["base"], name), tiny.scheduler(theirs["refiner"], name):
        half, expected = ensemble(theirs, "latent", 0.55, 0.55)
    given = {"sampler": sampler, "output": "latents", "seed": SEEDS, **GIVEN}
    latents = ours["base"].generate(PROMPTS, NEGATIVES, denoising_end=0.55, **SIZE, **given)
    assert_close(latents, half, NETWORK)
    drawn = ours["refiner"].generate(
        PROMPTS, NEGATIVES, latents=half, denoising_start=0.55, **given
    )
    assert_close(drawn, expected, NETWORK)


def test_its_negative_none_is_read_as_an_empty_prompt(ours, theirs):
    """Trap 10: the refiner's index says so."""
    latents, _ = ensemble(theirs, "latent")
    image = torch.from_numpy(np.moveaxis(latents, -1, 1).copy())
    options = {"image": image, "denoising_start": 0.8, **GIVEN}
    expected = tiny.draw(theirs["refiner"], PROMPTS, None, SEEDS, **options)
    given = {"latents": latents, "denoising_start": 0.8, "output": "latents", **GIVEN}
    assert_close(ours["refiner"].generate(PROMPTS, None, **given), expected, NETWORK)
    np.testing.assert_array_equal(
        ours["refiner"].generate(PROMPTS, None, **given),
        ours["refiner"].generate(PROMPTS, "", **given),
    )


def test_the_callback_counts_the_steps_that_are_made(ours):
    seen = []
    given = {"num_inference_steps": 10, "output": "latents", **SIZE}
    latents = ours["base"].generate("a", denoising_end=0.5, **given)
    given |= {"latents": latents, "denoising_start": 0.5, "denoising_end": 0.8}
    plain = ours["base"].generate("a", **given)
    told = ours["base"].generate("a", callback=lambda i, n, _: seen.append((i, n)), **given)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_array_equal(told, plain)


def test_three_parts_are_the_whole(ours):
    given = {"num_inference_steps": 10, "output": "latents", "seed": 5, **SIZE}
    whole = ours["base"].generate("a", **given)
    latents = ours["base"].generate("a", denoising_end=0.3, **given)
    for start, end in ((0.3, 0.7), (0.7, None)):
        span = {"denoising_start": start, "denoising_end": end}
        latents = ours["base"].generate("a", latents=latents, **span, **given)
    assert_close(latents, whole, NETWORK)


def test_what_is_saved_is_the_same_refiner(ours, tmp_path):
    sd = ours["refiner"]
    assert sd.family == "sdxl" and len(sd.text_encoders) == len(sd.tokenizers) == 1
    sd.save(tmp_path / "saved")
    again = tiny.load(tmp_path / "saved")
    assert type(again) is diffusers.StableDiffusionXLImg2ImgPipeline
    assert again.text_encoder is None and again.config.requires_aesthetics_score
    given = {"num_inference_steps": 2, "output": "latents", **SIZE}
    expected = sd.generate("a", **given)
    saved = flax_sd.StableDiffusion.load(tmp_path / "saved")
    np.testing.assert_array_equal(saved.generate("a", **given), expected)


def test_a_refiner_in_one_file_is_its_folder(tmp_path):
    """Trap 4: it is known by its width, as the prefix of its text encoder is SD 2's too."""
    pipeline = tiny.build_refiner(width=1280)
    pipeline.save_pretrained(tmp_path / "refiner")
    write_single(pipeline, "sdxl_refiner", tmp_path / "refiner.safetensors")
    file = flax_sd.StableDiffusion.load(
        tmp_path / "refiner.safetensors", config=tmp_path / "refiner"
    )
    assert file.family == "sdxl" and file.model.files.kind.networks == PARTS
    folder = ModelFiles(tmp_path / "refiner")
    for name in PARTS:
        ours, theirs = state_tensors(file.model.networks[name]), folder.tensors(name)
        assert all(np.array_equal(ours[key], value) for key, value in theirs.items())
    alone = ModelFiles(tmp_path / "refiner.safetensors")  # with the public refiner's index
    assert alone.kind.networks == PARTS and not alone.zeros_for_no_prompt
    assert alone.index["requires_aesthetics_score"] is True


WRONG = [
    ({"denoising_end": 1.5}, "denoising_end is 1.5: should be a fraction between 0 and 1"),
    ({"denoising_start": 1}, "denoising_start is 1: should be a fraction.*needs latents"),
    ({"denoising_start": 0.8}, "denoising_start needs latents, which a model with denoising_end"),
    ({"denoising_start": 0.8, "denoising_end": 0.8}, "the start should be the smaller one"),
    ({"target_size": (8, 8)}, "target_size: only SDXL's base model reads this"),
    ({"prompt_2": "b"}, "prompt_2: only SDXL's base model reads this"),
    ({"aesthetic_score": "high"}, "aesthetic_score is 'high': should be a number, such as 6.0"),
    ({"original_size": 3, "aesthetic_score": float("nan")}, "original_size is 3.*score is nan"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_has_no_meaning_is_named(ours, options, message):
    with pytest.raises(UserError, match=message) as caught:
        ours["refiner"].generate("a", num_inference_steps=1, **options)
    assert str(caught.value).count("original_size") <= 1


def test_what_the_base_and_pndm_cannot(ours):
    with pytest.raises(UserError, match="aesthetic_score: only SDXL's refiner reads this"):
        ours["base"].generate("a", aesthetic_score=7.0)
    given = {"latents": np.zeros((1, 3, 2, 4), np.float32), "denoising_start": 0.5}
    with pytest.raises(UserError, match="denoising_start: PNDMScheduler reads its earlier steps"):
        ours["base"].generate("a", sampler="pndm", **given)


@pytest.mark.parametrize("steps", [4, 7, 10])
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_the_steps_are_those_of_diffusers(theirs, name, steps):
    """Of second order too, where a step of two calls is not cut in its middle."""
    pipeline = theirs["refiner"]
    with tiny.scheduler(pipeline, name):
        for fraction in np.arange(0.05, 1, 0.05).tolist():
            pipeline.scheduler.set_timesteps(steps)
            t, order = pipeline.scheduler.timesteps.numpy(), pipeline.scheduler.order
            at = cutoff(fraction, 1000)
            expected, _ = pipeline.get_timesteps(steps, 0.3, "cpu", denoising_start=fraction)
            first, last = steps_within(t, at, None, order=order)
            np.testing.assert_array_equal(t[first:last], expected.numpy())
            assert steps_within(t, None, at, order=order) == (0, sum(t >= at))


def test_its_parts_are_found(folders):
    kind = ModelFiles(folders / "refiner").kind
    assert kind.networks == PARTS
    assert kind.tokenizers == ("tokenizer_2",)
