"""Runs that differ in numbers alone share one program of the step."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sd.config import Config, OptimConfig
from flax_sd.config.file import config_path, option_fields, parse
from flax_sd.system.program import divided
from flax_sd.training import optim
from flax_sd.training import step as train_step
from flax_sd.training.losses import PlainLoss
from flax_sd.training.setup.base_model import abstract_model
from flax_sd.training.setup.task import make_task

BIASED = ("--timesteps.bias_multiplier", 2, "--timesteps.sampling")
# An option, two values that both turn something on, and the options without which it has no effect.
CASES = [
    ("train.steps", 12, 3000),
    ("train.ema_decay", 0.9, 0.99),
    ("seed", 1, 2),
    ("optim.learning_rate", 1e-4, 3e-3),
    ("optim.text_encoder_learning_rate", 1e-5, 1e-4),
    ("optim.text_encoder_2_learning_rate", 1e-5, 1e-4),
    ("optim.lora_plus", 2, 16),
    ("optim.rates", "up_blocks=0.5", "up_blocks=2"),
    ("optim.beta1", 0.8, 0.95),
    ("optim.beta2", 0.9, 0.9999),
    ("optim.epsilon", 1e-8, 1e-6),
    ("optim.weight_decay", 0.1, 0.2),
    ("optim.text_encoder_weight_decay", 0.1, 0.2, "--train.text_encoder", "true"),
    ("optim.max_grad_norm", 0.5, 1),
    ("optim.warmup_steps", 3, 40),
    ("optim.decay_steps", 3, 40, "--optim.schedule", "constant_with_decay"),
    ("optim.cycles", 0.5, 2),
    ("optim.power", 1, 2, "--optim.schedule", "polynomial"),
    ("optim.schedule", "linear", "rex"),
    ("lora.alpha", 1, 8),
    ("lora.dropout", 0.1, 0.3),
    ("lora.rank_dropout", 0.1, 0.3),
    ("lora.module_dropout", 0.1, 0.3),
    ("lora.max_norm", 1, 2),
    ("loss.huber_c", 0.1, 0.3, "--loss.error", "huber"),
    ("loss.gamma", 1, 5, "--loss.weight", "min_snr"),
    ("loss.dream", 1, 10),
    ("timesteps.first", 10, 100),
    ("timesteps.last", 500, 600),
    ("timesteps.logit_mean", 0.5, 1, "--timesteps.sampling", "logit_normal"),
    ("timesteps.logit_std", 0.5, 2, "--timesteps.sampling", "logit_normal"),
    ("timesteps.bias_multiplier", 2, 3, "--timesteps.sampling", "earlier"),
    ("timesteps.bias_portion", 0.2, 0.5, *BIASED, "earlier"),
    ("timesteps.bias_begin", 20, 50, *BIASED, "range"),
    ("timesteps.bias_end", 200, 500, *BIASED, "range"),
    ("noise.offset", 0.05, 0.1),
    ("noise.multires_discount", 0.2, 0.8, "--noise.multires_steps", 3),
    ("noise.input_perturbation", 0.1, 0.2),
    ("vae_loss.kl_weight", 1e-6, 1e-3, "--train.mode", "vae"),
    ("vae_loss.l1_weight", 0.2, 0.8, "--train.mode", "vae"),
]
COMPILING = "/jax/core/compile/backend_compile_duration"
SECTIONS = {"optim", "lora", "loss", "timesteps", "noise", "vae_loss"}


def step_of(*flags):
    """A config's step, of a model without weights."""
    mode = [str(flag) for flag in flags]
    recipe = "base_vae.yaml" if "vae" in mode else "quickstart.yaml"
    config = parse(config_path(recipe), ["--model.path", "bundled:base", *mode])
    task = make_task(config, abstract_model(config, "float32"))
    tx = optim.make_optimizer(config.optim, config.train.steps)
    ema = config.train.ema_decay
    settings = train_step.StepSettings(task.loss, tx, ema, task.constrain)
    return divided(settings), divided(task.eval_loss)


@pytest.mark.parametrize("option, one, other, beside", [(*c[:3], c[3:]) for c in CASES], ids=str)
def test_a_number_is_an_argument_of_the_step(option, one, other, beside):
    first, second = (step_of(*beside, f"--{option}", value) for value in (one, other))
    for (numbers, structure), (others, same) in zip(first, second, strict=True):
        assert structure == same
        assert [np.shape(x) for x in numbers] == [np.shape(x) for x in others]
    if option not in ("seed", "lora.alpha"):  # which are in the state and among the frozen leaves
        pairs = zip(first[0].numbers, second[0].numbers, strict=True)
        assert any(not np.array_equal(a, b) for a, b in pairs)


def test_another_rate_and_number_of_steps_compile_nothing():
    compiled, x = [], jnp.ones(2)
    loss = PlainLoss(lambda key, x: x, lambda params, frozen, x, draws: x * params["unet"]["w"])
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name)
    )
    for rate, steps in [(0.1, 10), (0.3, 1000)]:
        tx = optim.make_optimizer(OptimConfig(learning_rate=rate, schedule="linear"), steps)
        params = {"unet": {"w": jnp.ones(())}}
        state = train_step.init_state(params, tx, 0, scaled=False, averaged=True)
        step = train_step.make_train_step(loss, tx, ema_decay=rate)
        compiled.clear()
        new, _ = step(state, {}, x)
        # AdamW's first step is as long as the rate, beside its decay of 1 %.
        assert float(new.params.tree()["unet"]["w"]) == pytest.approx(1 - 1.01 * rate, rel=1e-4)
        assert COMPILING in compiled or rate == 0.3
    assert COMPILING not in compiled


def test_every_number_of_the_step_is_in_the_list():
    named = {case[0] for case in CASES}
    for name, field in option_fields(Config).items():
        if name.partition(".")[0] in SECTIONS and _is_float(field.annotation):
            assert name in named, name


def _is_float(annotation):
    return annotation is float or any(map(_is_float, typing.get_args(annotation)))
