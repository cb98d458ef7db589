"""Options of loss, timesteps, noise and LoRA, from the config to what a step computes."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flax_sd
from flax_sd.config import file
from flax_sd.lora.dropout_masks import Rates
from flax_sd.lora.layers import LoRAScale
from flax_sd.lora.max_norm import product_norm
from flax_sd.training.losses import PixelBatch
from flax_sd.training.setup.lora import dropout_rates
from flax_sd.training.step import init_state, make_train_step
from tests.training_runs import batch_of, task_of

DDPM = pathlib.Path(flax_sd.__file__).parents[1] / "configs" / "ddpm.yaml"
DRAWN = ["--timesteps.first", 900, "--timesteps.stratified", "true", "--noise.offset", 3]


@pytest.fixture
def pixel_task(sizes):
    """The task of the recipe of mode ddpm with flags."""

    def make(*flags):
        given = ["--model.path", sizes, "--data.resolution", 16, *flags]
        return task_of(file.parse(DDPM, [str(flag) for flag in given]))

    return make


def pixels_of(b=2):
    rng = np.random.default_rng(0)
    return PixelBatch(rng.uniform(-1, 1, (b, 16, 16, 3)).astype(np.float32))


@pytest.fixture(params=["lora", "ddpm"])
def pair(request, task, pixel_task):
    """A task with options of timesteps and noise, and a batch for it."""
    if request.param == "ddpm":
        return pixel_task(*DRAWN), pixels_of(64)
    made = task(*DRAWN)
    return made, batch_of(made, 64)


def test_timesteps_and_noise_reach_the_training_and_not_the_evaluation(pair):
    made, batch = pair
    draws, plain = (one.draw(jax.random.key(0), batch) for one in (made.loss, made.eval_loss))
    assert int(draws.timesteps.min()) >= 900 > int(plain.timesteps.min())
    tenths = np.bincount(np.asarray(draws.timesteps - 900) // 10, minlength=10)
    assert tenths.min() >= 5  # of 64, where chance alone would leave some with two
    offsets, none = (np.asarray(d.noise.mean((1, 2))).std() for d in (draws, plain))
    assert offsets > 2 > 0.5 > none


def test_the_perturbed_input_is_not_the_target(task):
    made = task("--noise.input_perturbation", 0.1)
    batch = batch_of(made)
    draws = made.loss.draw(jax.random.key(0), batch)
    assert 0.05 < float((draws.added - draws.noise).std()) < 0.2
    assert made.eval_loss.draw(jax.random.key(0), batch).added is None


def test_the_error_reaches_the_training_of_pixels_and_not_the_evaluation(pixel_task):
    plain, absolute = pixel_task(), pixel_task("--loss.error", "l1")
    batch = pixels_of()
    draws = plain.eval_loss.draw(jax.random.key(0), batch)  # which drops nothing of the network

    def value(one):
        return np.asarray(jax.jit(one.loss)(plain.params, plain.frozen, batch, draws))

    np.testing.assert_array_equal(value(absolute.eval_loss), value(plain.loss))
    assert (np.abs(value(absolute.loss) / value(plain.loss) - 1) > 0.01).all()


def test_no_layers_change_is_larger_than_max_norm(task):
    made = task("--lora.max_norm", 0.25)
    assert made.constrain is not None and task().constrain is None
    bounded = made.constrain(jax.tree.map(lambda leaf: leaf + 1, made.params), made.frozen)
    leaves, norms = dict(nnx.to_flat_state(bounded["unet"])), []
    for path, scale in nnx.to_flat_state(made.frozen["unet"]):
        if isinstance(scale, LoRAScale):
            down, up = (leaves[(*path[:-1], half)][...] for half in ("down", "up"))
            norms.append(float(jnp.abs(scale[...]) * product_norm(down, up)))
    assert norms and max(norms) == pytest.approx(0.25, rel=1e-5)


def test_dora_adds_a_magnitude_to_each_layer(task):
    def count(made, name):
        leaves = jax.tree_util.tree_leaves_with_path(made.params)
        paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
        return sum(name in path.split(".") for path in paths)

    plain, dora = task(), task("--lora.dora", "true")
    assert count(plain, "magnitude") == 0 < count(dora, "magnitude") == count(dora, "up")


def test_each_dropout_is_its_own(parse):
    names = ["dropout", "rank_dropout", "module_dropout"]
    for i, name in enumerate(names):
        wanted = [0.0, 0.0, 0.0]
        wanted[i] = 0.25
        assert dropout_rates(parse(f"--lora.{name}", 0.25)) == Rates(*wanted)
    assert dropout_rates(parse()) is None


@pytest.mark.parametrize("mode", ["full", "vae", "ddpm"])
def test_whole_weights_are_computed_with_in_compute_dtype(task, pixel_task, mode):
    halves = ["--compute_dtype", "bfloat16"]
    if mode == "ddpm":
        made = pixel_task(*halves)
    else:
        made = task("--train.mode", mode, *halves)
    batch = batch_of(made) if mode == "full" else pixels_of()
    draws = made.loss.draw(jax.random.key(0), batch)
    lowered = jax.jit(made.loss.loss).lower(made.params, made.frozen, batch, draws).as_text()
    convolutions = [line for line in lowered.splitlines() if "stablehlo.convolution" in line]
    assert convolutions and all("xbf16>" in line for line in convolutions)


def test_the_step_is_multiplied_as_compute_dtype_says(task):
    """B2: the precision asked for reaches every product and convolution of the step."""
    before = jax.config.values["jax_default_matmul_precision"]
    jax.config.update("jax_default_matmul_precision", None)  # which the tests set
    try:
        for dtype, wanted in (("float32", "HIGHEST"), ("bfloat16", "DEFAULT")):
            made = task("--compute_dtype", dtype)
            tx = optax.sgd(1.0)
            state = init_state(made.params, tx, 0, scaled=False)
            batch = batch_of(made)
            lowered = make_train_step(made.loss, tx).lower(state, made.frozen, batch).as_text()
            kinds = ("stablehlo.dot_general", "stablehlo.convolution")
            products = [line for line in lowered.splitlines() if any(k in line for k in kinds)]
            assert len(products) > 20
            # What is written out as exact stays so in 16 bits.
            share = sum(wanted in line for line in products) / len(products)
            assert share == 1 if dtype == "float32" else share > 0.8
    finally:
        jax.config.update("jax_default_matmul_precision", before)


def test_clip_skip_counts_where_the_text_encoder_is_trained(task):
    made = [task("--train.text_encoder", "true", "--model.clip_skip", skip) for skip in (0, 1)]
    batch = batch_of(made[0])
    assert jnp.issubdtype(batch.text[0].dtype, jnp.integer)
    draws = made[0].loss.draw(jax.random.key(0), batch)
    last, before = (jax.jit(m.loss.loss)(m.params, m.frozen, batch, draws) for m in made)
    assert (np.abs(last / before - 1) > 1e-6).all()
