import diffusers.optimization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flax_sd.config import OptimConfig
from flax_sd.errors import UserError
from flax_sd.training import optim
from flax_sd.training.optim.rates import Rates

TOTAL = 30
CASES = [
    OptimConfig(schedule="constant"),
    OptimConfig(schedule="constant_with_warmup", warmup_steps=7),
    OptimConfig(schedule="linear"),
    OptimConfig(schedule="linear", warmup_steps=4),
    OptimConfig(schedule="cosine", warmup_steps=3),
    OptimConfig(schedule="cosine", cycles=1.75),
    OptimConfig(schedule="cosine_with_restarts"),
    OptimConfig(schedule="cosine_with_restarts", cycles=3.0),
    OptimConfig(schedule="cosine_with_restarts", cycles=4.0, warmup_steps=2),
    OptimConfig(schedule="polynomial"),
    OptimConfig(schedule="polynomial", power=2.5, warmup_steps=6),
]


def their_rates(cfg, steps):
    """The rates of diffusers' scheduler, one an update."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=cfg.learning_rate)
    common = {"num_warmup_steps": cfg.warmup_steps, "num_training_steps": TOTAL}
    if cfg.schedule == "cosine" and cfg.cycles is not None:  # get_scheduler does not pass it on
        scheduler = diffusers.optimization.get_cosine_schedule_with_warmup(
            optimizer, num_cycles=cfg.cycles, **common
        )
    else:
        scheduler = diffusers.optimization.get_scheduler(
            cfg.schedule, optimizer, num_cycles=cfg.cycles or 1, power=cfg.power, **common
        )
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("cfg", CASES, ids=lambda c: f"{c.schedule}-{c.warmup_steps}-{c.cycles}")
def test_schedule_is_diffusers_at_every_step(cfg):
    theirs = their_rates(cfg, TOTAL + 1)
    ours = [optim.learning_rate_at(cfg, step, TOTAL) for step in range(TOTAL + 1)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-20)

    # What the update multiplies by is the same number in float32.
    cfg = cfg.model_copy(update={"weight_decay": 0.0, "beta1": 0.0, "max_grad_norm": 0.0})
    tx = optim.make_optimizer(cfg, TOTAL)
    params = {"unet": jnp.zeros(1)}
    state, update = tx.init(params), jax.jit(tx.update)
    for rate in theirs:
        updates, state = update({"unet": jnp.full(1, 1e3)}, state, params)
        np.testing.assert_allclose(-updates["unet"][0], rate, rtol=3e-6, atol=1e-20)


def test_rates_stay_at_the_end_past_the_last_step():
    cfg = OptimConfig(schedule="cosine")
    assert optim.learning_rate_at(cfg, TOTAL + 9, TOTAL) == optim.learning_rate_at(
        cfg, TOTAL, TOTAL
    )


def test_polynomial_refuses_a_rate_below_its_end():
    with pytest.raises(UserError, match="learning_rate is 1e-08.*must be larger"):
        optim.make_optimizer(OptimConfig(schedule="polynomial", learning_rate=1e-8), TOTAL)


def test_rex_is_the_papers():
    cfg = OptimConfig(schedule="rex", learning_rate=1.0, warmup_steps=10)
    z = np.array([0.0, 0.25, 0.5, 1.0])
    ours = [optim.learning_rate_at(cfg, 10 + round(20 * share), TOTAL) for share in z]
    np.testing.assert_allclose(ours, (1 - z) / (0.5 + 0.5 * (1 - z)), rtol=1e-12)
    assert optim.learning_rate_at(cfg, 5, TOTAL) == 0.5


@pytest.mark.parametrize(("given", "last"), [(None, 3), (6, 6)])
def test_constant_with_decay_falls_at_the_end(given, last):
    cfg = OptimConfig(schedule="constant_with_decay", learning_rate=1.0, decay_steps=given)
    ours = [optim.learning_rate_at(cfg, step, TOTAL) for step in range(TOTAL + 1)]
    assert ours[: TOTAL - last + 1] == [1.0] * (TOTAL - last + 1) and ours[-1] == 0
    np.testing.assert_allclose(np.diff(ours[TOTAL - last :]), -1 / last, rtol=1e-12)


def test_the_rate_of_a_leaf():
    cfg = OptimConfig(
        learning_rate=1.0,
        text_encoder_learning_rate=0.5,
        lora_plus=16,
        rates={r"down_blocks\.0": 0.1, "down_blocks": 3, "conv_in": 0},
    )
    expected = {
        "unet.mid_block.adapters.x.down": 1.0,
        "unet.mid_block.adapters.x.up": 16.0,
        "unet.down_blocks.0.x.down": 0.1,  # the first pattern that is found
        "unet.down_blocks.1.x.up": 48.0,
        "unet.conv_in.x.up": 0.0,
        "text_encoder_2.text_model.x.down": 0.5,
        "unet.text_encoder.x": 1.0,
    }
    assert {path: Rates.of(cfg).peak(path) for path in expected} == pytest.approx(expected)


def test_the_decay_of_a_leaf():
    cfg = OptimConfig(weight_decay=0.1, text_encoder_weight_decay=0.0)
    assert Rates.of(cfg).decay("unet.x") == 0.1 and Rates.of(cfg).decay("text_encoder.x") == 0.0


def test_a_pattern_that_matches_nothing_is_named():
    tx = optim.make_optimizer(OptimConfig(rates={"unet": 2, "uper_blocks": 1}), TOTAL)
    with pytest.raises(
        UserError, match=r"no trained parameter matches 'uper_blocks'; paths look like unet"
    ):
        tx.init({"unet": {"conv_in": jnp.zeros(1)}})
