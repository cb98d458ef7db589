"""That what is trained has a gradient, in every mode."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters import partial_eval

import flax_sd
from flax_sd.config import file
from flax_sd.errors import UserError
from flax_sd.models.vae import Moments
from flax_sd.training.losses import EncodedBatch, PixelBatch
from flax_sd.training.setup.base_model import abstract_model
from flax_sd.training.setup.task import make_task
from tests.random_loras import random_lora, write_run

DDPM = pathlib.Path(flax_sd.__file__).parents[1] / "configs" / "ddpm.yaml"
TEXT = ["--train.text_encoder", "true"]
FULL = ["--train.mode", "full"]


def abstract(config):
    return make_task(config, abstract_model(config, "float32"))


def names(task):
    """The dotted paths of what is trained."""
    leaves = jax.tree_util.tree_leaves_with_path(task.params)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]


def batch_for(mode):
    """Shapes of what a step reads."""
    if mode in ("vae", "ddpm"):
        return PixelBatch(jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    latents = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
    return EncodedBatch(Moments(latents, latents), (jax.ShapeDtypeStruct((2, 77), jnp.int32),))


def without_gradient(task, mode):
    """The trained leaves on which the loss does not depend."""
    loss, batch = task.loss, batch_for(mode)
    draws = jax.eval_shape(loss.draw, jax.random.key(0), batch)
    traced = jax.make_jaxpr(loss.loss)(task.params, task.frozen, batch, draws)
    _, used = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    paths = names(task)
    return [path for path, is_used in zip(paths, used, strict=False) if not is_used]


@pytest.mark.parametrize(
    "flags",
    [
        [*TEXT],
        [*TEXT, "--model.clip_skip", 1, "--lora.dora", "true"],
        [*FULL, *TEXT],
        [*FULL, *TEXT, "--model.clip_skip", 1],
        [*FULL, *TEXT, "--model.clip_skip", 2],
        ["--train.mode", "vae"],
        ["--train.mode", "vae", "--vae_loss.kl_weight", 0],
    ],
)
def test_the_loss_depends_on_all_that_is_trained(parse, flags):
    """B3: weight decay would move what never has a gradient."""
    config = parse(*flags)
    assert without_gradient(abstract(config), config.train.mode) == []


def test_so_it_does_without_words(sizes):
    """B3."""
    given = ["--model.path", str(sizes), "--data.resolution", "32"]
    assert without_gradient(abstract(file.parse(DDPM, given)), "ddpm") == []


@pytest.mark.parametrize("mode", [[], FULL])
def test_layers_that_clip_skip_leaves_out_are_not_trained(parse, mode):
    """B3."""
    whole, less = (
        names(abstract(parse(*mode, *TEXT, "--model.clip_skip", skip))) for skip in (0, 1)
    )
    gone = {path for path in whole if ".encoder.layers.1." in path}  # of two
    assert gone and set(less) == set(whole) - gone


def test_a_lora_that_has_them_keeps_them_as_they_are(parse, model, tmp_path):
    """B3: they are written again, though not trained."""
    write_run(tmp_path / "cat", random_lora(model, rank=4, alpha=4.0), model)
    flags = [*TEXT, "--model.clip_skip", 1, "--lora.rank", 4, "--lora.start", tmp_path / "cat"]
    config = parse(*flags, "--lora.max_norm", 1)
    parts = abstract_model(config, "float32")
    task = make_task(config, parts)
    assert not [path for path in names(task) if ".encoder.layers.1." in path]
    held = parts.networks["text_encoder"].text_model.encoder.layers[1].self_attn.q_proj
    assert "default" in held.adapters
    jax.eval_shape(task.constrain.__call__, task.params, task.frozen)


def test_a_text_encoder_without_layers_has_no_lora(parse):
    """B3."""
    config = parse(*TEXT, "--model.clip_skip", 2)
    with pytest.raises(UserError, match="clip_skip 2 skips all layers of the text encoder"):
        abstract_model(config, "float32")
