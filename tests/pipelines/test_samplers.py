"""Whole images of every sampler against diffusers' pipelines, from the seed alone."""

import warnings

import diffusers
import flax.nnx as nnx
import jax.numpy as jnp
import numpy as np
import pytest

import flax_sd
from flax_sd import samplers
from flax_sd.errors import UserError
from flax_sd.models.layers import Network
from flax_sd.pipelines.programs import Programs
from tests import tiny
from tests.tiny import NEGATIVES, PROMPTS, SEEDS

# diffusers' pipelines cannot draw with the schedulers of flow matching, and its SDE solver has a
# seed of its own; DDIM inverse makes noise of an image.
NOT_COMPARED = ("flow_euler", "flow_heun", "dpmpp_sde", "ddim_inverse")
NAMES = [name for name in samplers.SAMPLERS if name not in NOT_COMPARED]
KARRAS = ["euler_karras", "heun_karras", "lms_karras", "dpmpp_2m_karras", "dpmpp_2m_sde_karras"]
STEPS = {"num_inference_steps": 6, "height": 24, "width": 16}


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl") / "model"
    tiny.build_xl().save_pretrained(folder)
    return flax_sd.StableDiffusion.load(folder), tiny.load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_sampler_draws_the_picture_of_diffusers(pairs, sdxl, family):
    """In one program for each of both kinds: with noise at the steps, and without."""
    ours, theirs = {**pairs, "sdxl": sdxl}[family]
    ours.programs, own = Programs(), theirs.scheduler
    options = {"guidance_scale": 5.0, **STEPS}
    for name in [*NAMES, *KARRAS]:
        if family == "sdxl" and name.startswith("edm"):
            continue  # its file has sigma_min null, of Euler, which EDM's classes cannot take
        config = samplers.config_of(name, ours.scheduler_config)
        kind = getattr(diffusers, config["_class_name"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy 2 about diffusers' schedulers
            changes = {k: v for k, v in config.items() if k != "_class_name"}
            theirs.scheduler = kind.from_config({**own.config, **changes})
            expected = tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, "np", **options)
        images = ours.generate(PROMPTS, NEGATIVES, seed=SEEDS, sampler=name, **options)
        difference = np.abs(images.astype(int) - (expected * 255).round()).max()
        assert difference <= 2, (name, difference)
    theirs.scheduler = own
    assert ours.programs.traces["sample"] == 2


class FakeUNet(Network):
    """Quick to compile."""

    def __init__(self, config):
        self.config = config
        self.layer = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

    def __call__(self, latents, t, text):
        return 0.1 * jnp.tanh(self.layer(latents) + text.mean((1, 2))[:, None, None, None])


@pytest.fixture
def quick(folders):
    sd = flax_sd.StableDiffusion.load(folders / "sd1")
    sd.unet, sd.programs = FakeUNet(sd.unet.config), Programs()
    return sd


def test_fifteen_samplers_of_three_numbers_of_steps_are_two_programs(quick):
    names = [name for name in NAMES if not name.startswith("edm")][:15]
    drawn = set()
    for name in names:
        for steps in (20, 25, 50):
            given = {"sampler": name, "num_inference_steps": steps, "output": "latents"}
            latents = quick.generate("a", height=16, width=24, guidance_scale=5.0, **given)
            drawn.add(latents.tobytes())
    assert len(drawn) == 45 and quick.programs.traces["sample"] == 2


def test_a_long_run_has_longer_tables(quick):
    for sampler in ("ddim", "ddpm"):
        given = {"sampler": sampler, "num_inference_steps": 200, "output": "latents"}
        assert np.isfinite(quick.generate("a", height=16, width=24, **given)).all()


def test_eta(quick):
    """DDIM and TCD read it; by default it is 0, as in diffusers' pipelines."""

    def draw(sampler, **options):
        given = {"num_inference_steps": 4, "output": "latents", "height": 16, "width": 24}
        return quick.generate("a", sampler=sampler, **given, **options)

    for sampler in ("ddim", "tcd"):
        assert np.array_equal(draw(sampler), draw(sampler, eta=0.0))
        assert np.array_equal(draw(sampler, eta=0.5), draw(sampler, step_options={"eta": 0.5}))
        assert not np.allclose(draw(sampler), draw(sampler, eta=0.5))
    with pytest.raises(UserError, match="eta: EulerDiscreteScheduler does not read it"):
        draw("euler", eta=0.5)
