"""What is trained, in which numbers, and what each option of the LoRA changes of it."""

import jax
import numpy as np
import pytest
from flax import nnx

from flax_sd.system.program import divided
from flax_sd.training.losses import PixelBatch
from flax_sd.training.setup.base_model import abstract_model
from flax_sd.training.setup.task import make_task
from tests.parity import LAYER, NETWORK, assert_close
from tests.training_runs import batch_of


def loss_and_gradient(task):
    batch = batch_of(task)
    draws = task.loss.draw(jax.random.key(0), batch)

    def value(params):
        return task.loss.loss(params, task.frozen, batch, draws).mean()

    return jax.jit(jax.value_and_grad(value))(task.params)


def test_runs_of_one_kind_share_their_programs(task):
    first, second = task(), task("--seed", 3, "--train.steps", 9)
    for name in ("encode", "moments", "text"):
        assert getattr(first, name) is getattr(second, name), name
    for name in ("loss", "eval_loss"):
        assert structure(first, name) == structure(second, name), name
    other = task("--noise.offset", 0.1, "--model.clip_skip", 1)
    for name in ("encode", "text"):
        assert getattr(first, name) is not getattr(other, name), name
    for name in ("loss", "eval_loss"):
        assert structure(first, name) != structure(other, name), name


def structure(task, name):
    """What the programs of a task's loss are built for, beside its numbers."""
    return divided(getattr(task, name)).structure


@pytest.mark.parametrize("remat", ["blocks", "full"])
def test_recomputation_changes_no_gradient(task, remat):
    made = task("--train.remat", remat)
    assert nnx.merge(made.graphs["unet"], made.params["unet"], made.frozen["unet"]).remat == remat
    loss, plain = loss_and_gradient(task())
    same_loss, again = loss_and_gradient(made)
    assert_close(same_loss, loss, LAYER)
    pairs = list(zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True))
    assert sum(bool(np.abs(b).max() > 0) for _, b in pairs) >= len(pairs) // 2  # up's; down's are 0
    for a, b in pairs:
        assert_close(a, b, NETWORK)


def test_frozen_weights_have_the_dtype_of_the_arithmetic(task):
    made = task("--compute_dtype", "bfloat16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(made.frozen["vae"])} == {"bfloat16"}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(made.params)} == {"float32"}
    whole = task("--compute_dtype", "bfloat16", "--train.mode", "full")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(whole.params)} == {"float32"}


def paths(task):
    leaves = jax.tree_util.tree_leaves_with_path(task.params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


@pytest.mark.parametrize(
    "targets, some, others",
    [
        ("attention", ["to_q", "to_out.0"], ["ff", "proj_in", "conv1"]),
        ("attention+ff", ["to_q", "ff.net.0.proj", "ff.net.2"], ["proj_in", "conv1"]),
        ("sd-scripts", ["to_q", "ff.net.2", "proj_in", "proj_out"], ["conv1", "time_emb_proj"]),
        ("all-linear", ["to_q", "ff.net.0.proj", "time_emb_proj"], []),
        ("conv", ["conv1", "conv_in", "to_q"], []),
        (r".*\.proj_in", ["proj_in"], ["to_q", "ff", "conv1", "proj_out"]),
    ],
)
def test_targets_choose_the_layers(task, targets, some, others):
    found = paths(task("--lora.targets", targets))
    assert all(any(f".{name}." in path for path in found) for name in some)
    assert not any(f".{name}." in path for path in found for name in others)


def test_rank_init_and_seed_are_those_of_the_config(task):
    plain, wide = paths(task()), paths(task("--lora.rank", 5))
    assert plain.keys() == wide.keys()
    assert all(2 in leaf.shape for leaf in plain.values())
    assert all(5 in leaf.shape for leaf in wide.values())
    for other in (task("--seed", 1), task("--lora.init", "kaiming")):
        changed = {path for path, leaf in paths(other).items() if (leaf != plain[path]).any()}
        assert changed and changed == {path for path, leaf in plain.items() if leaf.any()}


def test_the_text_encoder_is_trained_if_asked(task):
    assert {path.split(".")[0] for path in paths(task())} == {"unet"}
    both = task("--train.text_encoder")
    assert {path.split(".")[0] for path in paths(both)} == {"unet", "text_encoder"}


def test_alpha_scales_the_gradient(task):
    _, plain = loss_and_gradient(task())
    _, scaled = loss_and_gradient(task("--lora.alpha", 5))
    for a, b in zip(jax.tree.leaves(scaled), jax.tree.leaves(plain), strict=True):
        assert_close(a, 2.5 * b, NETWORK)  # alpha is the rank, 2, unless said


def test_clip_skip_changes_what_the_unet_reads(task):
    text = [batch_of(task(*flags)).text.text for flags in ([], ["--model.clip_skip", 1])]
    assert text[0].shape == text[1].shape and not np.allclose(*text)


def test_options_of_the_loss_reach_the_training_and_not_the_evaluation(task):
    plain, weighed = task(), task("--loss.weight", "min_snr")
    batch = batch_of(plain, 4)
    draws = plain.loss.draw(jax.random.key(0), batch)
    draws = draws._replace(timesteps=jax.numpy.array([0, 100, 500, 999]))

    def values(made, loss):
        return np.asarray(loss.loss(made.params, made.frozen, batch, draws))

    ratio = values(weighed, weighed.loss) / values(plain, plain.loss)
    np.testing.assert_allclose(ratio, [0.00425372, 0.591445, 1, 1], rtol=1e-4)
    np.testing.assert_array_equal(
        values(weighed, weighed.eval_loss), values(plain, plain.eval_loss)
    )


def test_the_weights_of_the_autoencoders_loss_count(task):
    pixels = PixelBatch(np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32))

    def loss(*flags):
        made = task("--train.mode", "vae", *flags)
        draws = made.loss.draw(jax.random.key(0), pixels)
        return float(jax.jit(made.loss.loss)(made.params, made.frozen, pixels, draws).mean())

    def weights(kl, l1):
        return ["--vae_loss.kl_weight", kl, "--vae_loss.l1_weight", l1]

    squared, absolute = loss(*weights(0, 0)), loss(*weights(0, 1))
    assert loss(*weights(0, 0.25)) == pytest.approx(0.75 * squared + 0.25 * absolute, rel=1e-5)
    assert loss(*weights(0.5, 0)) > squared * 1.01


def test_dropout_reaches_the_training_and_not_the_evaluation(task):
    made = task("--lora.module_dropout", 0.5)
    params = jax.tree.map(lambda leaf: leaf + 0.3, made.params)  # up starts at zero
    batch = batch_of(made, 4)
    draws = made.loss.draw(jax.random.key(0), batch)
    same = made.eval_loss.draw(jax.random.key(0), batch)
    np.testing.assert_array_equal(draws.noise, same.noise)
    assert draws.dropout.shape == (4,) and same.dropout is None

    @jax.jit
    def values(params, draws):
        return [one.loss(params, made.frozen, batch, draws) for one in (made.loss, made.eval_loss)]

    thinned, whole = values(params, draws)
    assert (np.abs(thinned - whole) > 1e-6 * whole).all()


def test_the_base_of_what_is_trained_is_held_in_8_bits(parse):
    """And the plan, which is made of the same shapes, counts it so."""

    def frozen(*flags):
        config = parse(*flags)
        return make_task(config, abstract_model(config, "float32")).frozen

    def size(leaves, dtype):
        return sum(leaf.size for leaf in jax.tree.leaves(leaves) if leaf.dtype == dtype)

    plain, held = frozen(), frozen("--model.base_dtype", "int8")
    kernels = size(held["unet"], "int8")
    rest = size(held["unet"], "float32")
    assert kernels + rest >= size(plain["unet"], "float32") > kernels > 5 * rest
    assert not size(held["vae"], "int8") and not size(held["text_encoder"], "int8")
    both = frozen("--model.base_dtype", "int8", "--train.text_encoder", "true")
    assert size(both["text_encoder"], "int8") > 0
