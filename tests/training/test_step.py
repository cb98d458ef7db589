"""The training step against diffusers, peft and torch, and what must never happen in it."""

from typing import Any
from unittest.mock import Mock

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import peft
import pytest
import torch
from diffusers.training_utils import EMAModel
from flax import nnx

from flax_sd.config import OptimConfig
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.lora.inject import extract, inject
from flax_sd.models.clip import TextStates
from flax_sd.models.unet import UNet2DConditionModel
from flax_sd.models.unet_config import UNetConfig
from flax_sd.models.vae import Moments
from flax_sd.system.flops import count_flops
from flax_sd.training.losses import DiffusionDraws, EncodedBatch, PlainLoss, diffusion_loss
from flax_sd.training.optim import make_optimizer
from flax_sd.training.step import INITIAL_SCALE, init_state, make_train_step
from flax_sd.weights.fill import fill
from flax_sd.weights.networks import OneKey
from tests.parity import numpy_state, randomise, to_torch

UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
SCHEDULER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
RANK, ALPHA, STEPS = 4, 8.0, 5


def numbers(*shape: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def our_unet(theirs: Any) -> UNet2DConditionModel:
    config = UNetConfig.from_json(dict(theirs.config))
    abstract = nnx.eval_shape(lambda: UNet2DConditionModel(config, rngs=OneKey()))
    return fill(abstract, numpy_state(theirs), "float32", "the test")


def split(unet: nnx.Module, *, lora: bool = True) -> tuple[Any, Any, Any]:
    """Injects a LoRA; graph, trained leaves and frozen leaves."""
    if lora:
        inject(unet, "attention", RANK, ALPHA, "gaussian", jax.random.key(0))
    return nnx.split(unet, nnx.LoRAParam if lora else nnx.Param, ...)


def batch_of(seed: int, b: int = 3) -> tuple[EncodedBatch, DiffusionDraws]:
    moments = Moments(numbers(b, 6, 8, 4, seed=seed), numbers(b, 6, 8, 4, seed=seed + 100) - 3)
    draws = DiffusionDraws(
        numbers(b, 6, 8, 4, seed=seed + 200),
        np.random.default_rng(seed).integers(0, 1000, b),
        numbers(b, 6, 8, 4, seed=seed + 300),
    )
    return EncodedBatch(moments, TextStates(numbers(b, 7, 24, seed=seed + 400))), draws


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_five_steps_are_those_of_diffusers_peft_and_torch(prediction_type: str) -> None:
    theirs = randomise(diffusers.UNet2DConditionModel(**UNET))
    unet = our_unet(theirs)
    graph, params, frozen = split(unet)
    start = {path: (a.down, a.up) for path, a in extract(unet).items()}

    theirs.requires_grad_(False)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    theirs.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
    leaves = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    for name, p in leaves.items():
        path, kind = name.split(".lora_")
        p.data = torch.from_numpy(start[path][0 if kind[0] == "A" else 1].copy())
    trained = list(leaves.values())  # a list: the reference script's iterator is used up by AdamW
    adamw = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    noise_scheduler = diffusers.DDPMScheduler(**SCHEDULER, prediction_type=prediction_type)

    schedule = NoiseSchedule.from_config(SCHEDULER | {"prediction_type": prediction_type})
    loss = diffusion_loss({"unet": graph}, schedule, scaling_factor=0.18215)
    fed = PlainLoss(
        lambda key, pair: pair[1], lambda p, f, pair, draws: loss.loss(p, f, pair[0], draws)
    )
    tx = make_optimizer(OptimConfig(learning_rate=1e-3), STEPS)
    state = init_state({"unet": params}, tx, 0, scaled=False)
    step = make_train_step(fed, tx)

    for n in range(STEPS):
        batch, draws = batch_of(n)
        state, metrics = step(state, {"unet": frozen}, (batch, draws))

        moments = [to_torch(m) for m in batch.moments]
        latents = moments[0] + torch.exp(0.5 * moments[1]) * to_torch(draws.posterior)
        latents, noise = latents * 0.18215, to_torch(draws.noise)
        t = torch.from_numpy(np.asarray(draws.timesteps))
        noisy = noise_scheduler.add_noise(latents, noise, t)
        target = noise
        if prediction_type == "v_prediction":
            target = noise_scheduler.get_velocity(latents, noise, t)
        out = theirs(noisy, t, to_torch(batch.text.text)).sample
        their_loss = torch.nn.functional.mse_loss(out, target)
        their_loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adamw.step()
        adamw.zero_grad()
        assert float(metrics.loss) == pytest.approx(their_loss.item(), rel=1e-5)
        assert float(metrics.grad_norm) == pytest.approx(norm.item(), rel=1e-4)

    nnx.update(unet, state.params.tree()["unet"])
    ours = extract(unet)
    assert len(leaves) == 2 * len(ours) == 32
    for name, p in leaves.items():
        path, kind = name.split(".lora_")
        which = 0 if kind[0] == "A" else 1
        mine, wanted = (ours[path].down, ours[path].up)[which], p.detach().numpy()
        moved = np.linalg.norm(wanted - start[path][which])
        assert moved > 0
        assert np.linalg.norm(mine - wanted) <= 1e-3 * moved, name


def weight(params):
    """The one weight of a toy."""
    return float(params.tree()["unet"]["w"])


class Toy:
    """A loss of one weight, to see what the step does with what the loss gives."""

    def __init__(self, value: Any):
        self.loss = PlainLoss(
            lambda key, x: jax.random.normal(key, x.shape),
            lambda params, frozen, x, draws: value(params["unet"]["w"], x, draws),
        )
        self.tx = optax.sgd(0.5)

    def start(self, w: float = 1.0, scaled: bool = False) -> Any:
        return init_state({"unet": {"w": jnp.float32(w)}}, self.tx, 3, scaled=scaled)


def test_draws_come_from_the_step_alone() -> None:
    toy = Toy(lambda w, x, draws: w * draws)
    step = make_train_step(toy.loss, toy.tx)
    x = jnp.zeros(4)
    first, one = step(toy.start(), {}, x)
    _, again = step(toy.start(), {}, x)
    _, two = step(first, {}, x)
    assert float(one.loss) == float(again.loss) != float(two.loss)


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_a_divided_batch_gives_the_whole_batchs_update(parts: int) -> None:
    toy = Toy(lambda w, x, draws: jnp.square(w * x - draws))
    x = jnp.arange(6.0)
    whole, a = make_train_step(toy.loss, toy.tx)(toy.start(), {}, x)
    divided, b = make_train_step(toy.loss, toy.tx, accumulate=parts)(toy.start(), {}, x)
    np.testing.assert_allclose(weight(divided.params), weight(whole.params), rtol=1e-6)
    np.testing.assert_allclose(b.loss, a.loss, rtol=1e-6)


def test_what_is_trained_is_constrained_after_its_update_and_before_the_mean() -> None:
    toy = Toy(lambda w, x, draws: w * x)
    state = toy.start()
    state = state._replace(ema=jax.tree.map(jnp.copy, state.params))

    def halved(params: Any, frozen: Any) -> Any:
        return jax.tree.map(lambda leaf, by: leaf / by, params, frozen)

    step = make_train_step(toy.loss, toy.tx, ema_decay=0.9, constrain=halved)
    state, _ = step(state, {"unet": {"w": jnp.float32(2)}}, jnp.full(2, -4.0))
    assert weight(state.params) == (1 + 0.5 * 4) / 2 == weight(state.ema)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_changes_nothing_and_is_told(bad: float) -> None:
    toy = Toy(lambda w, x, draws: w * x)
    step = make_train_step(toy.loss, toy.tx)
    state, metrics = step(toy.start(), {}, jnp.array([1.0, bad]))
    assert bool(metrics.failed) and not bool(metrics.skipped)
    assert weight(state.params) == 1.0


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_told() -> None:
    toy = Toy(lambda w, x, draws: jnp.sqrt(w * x))  # at 0: value 0, slope infinite
    step = make_train_step(toy.loss, toy.tx)
    state, metrics = step(toy.start(), {}, jnp.zeros(2))
    assert float(metrics.loss) == 0 and bool(metrics.failed)
    assert weight(state.params) == 1.0


def test_an_overflow_of_the_scaled_gradient_halves_the_scale_and_skips() -> None:
    def half(w: jax.Array, x: jax.Array, draws: jax.Array) -> jax.Array:
        return (w.astype(jnp.float16) * x.astype(jnp.float16)).astype(jnp.float32)

    toy = Toy(half)
    step = make_train_step(toy.loss, toy.tx, scaled=True)
    state, metrics = step(toy.start(scaled=True), {}, jnp.full(2, 60000.0))
    assert bool(metrics.skipped) and not bool(metrics.failed)
    assert float(metrics.loss) == 60000 and weight(state.params) == 1
    assert float(state.loss_scale.scale) == INITIAL_SCALE / 2 and int(state.step) == 1
    state, metrics = step(state, {}, jnp.full(2, 0.5))
    assert not bool(metrics.skipped)
    assert weight(state.params) == pytest.approx(0.75)  # unscaled before the update


def test_a_scaled_run_stops_at_a_loss_that_is_not_finite_itself() -> None:
    toy = Toy(lambda w, x, draws: w * x)
    step = make_train_step(toy.loss, toy.tx, scaled=True)
    state, metrics = step(toy.start(scaled=True), {}, jnp.array([jnp.nan, 1.0]))
    assert bool(metrics.failed) and not bool(metrics.skipped)
    assert int(state.step) == 1 and state.loss_scale == toy.start(scaled=True).loss_scale


def test_an_overflow_at_the_smallest_scale_is_a_failure() -> None:
    toy = Toy(lambda w, x, draws: jnp.sqrt(w * x))
    step = make_train_step(toy.loss, toy.tx, scaled=True)
    state, told = toy.start(scaled=True), []
    for _ in range(18):  # the scale begins at 2^16
        state, metrics = step(state, {}, jnp.zeros(2))
        told.append((bool(metrics.skipped), bool(metrics.failed)))
    assert told == [(True, False)] * 16 + [(False, True)] * 2


def test_frozen_leaves_have_no_state_and_stay_as_they_are() -> None:
    unet = our_unet(randomise(diffusers.UNet2DConditionModel(**UNET)))
    graph, params, frozen = split(unet)
    loss = diffusion_loss({"unet": graph}, NoiseSchedule.from_config(SCHEDULER), scaling_factor=1.0)
    tx = make_optimizer(OptimConfig(learning_rate=1e-2), 2)
    before = jax.tree.map(np.array, frozen)
    state = init_state({"unet": params}, tx, 0, scaled=False)
    trained = sum(leaf.size for leaf in jax.tree.leaves(params))
    in_state = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    assert 2 * trained <= in_state <= 2 * trained + 8  # two moments, and counters
    drawn = Mock(side_effect=loss.draw)  # called where the step is traced
    step = make_train_step(PlainLoss(drawn, loss.loss), tx)
    for n in range(2):
        state, _ = step(state, {"unet": frozen}, batch_of(n)[0])
    jax.tree.map(np.testing.assert_array_equal, frozen, before)
    assert drawn.call_count == 1


def test_a_lora_step_costs_little_more_than_twice_the_forward_pass() -> None:
    """At SD 1.5's full size, counted over the jaxpr: forward, and input gradients but no others."""
    config = UNetConfig.from_json(
        {
            "block_out_channels": (320, 640, 1280, 1280),
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
            "sample_size": 64,
        }
    )
    unet = nnx.eval_shape(lambda: UNet2DConditionModel(config, rngs=OneKey()))
    inputs = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 64, 64, 4), (1,), (1, 77, 768))]
    plain, weights = nnx.split(unet)
    forward = count_flops(lambda w, *xs: nnx.merge(plain, w)(*xs), weights, *inputs)
    assert forward == pytest.approx(0.803e12, rel=0.03)
    graph, params, frozen = split(unet)
    loss = diffusion_loss({"unet": graph}, NoiseSchedule.from_config(SCHEDULER), scaling_factor=1.0)
    tx = make_optimizer(OptimConfig(), 1)
    state = jax.eval_shape(lambda p: init_state({"unet": p}, tx, 0, scaled=False), params)
    moments = Moments(inputs[0], inputs[0])
    step = make_train_step(loss, tx)
    total = count_flops(step, state, {"unet": frozen}, EncodedBatch(moments, TextStates(inputs[2])))
    assert 2.0 * forward < total <= 2.35 * forward


def test_the_running_mean_is_diffusers_ema() -> None:
    toy = Toy(lambda w, x, draws: w * x)
    step = make_train_step(toy.loss, toy.tx, ema_decay=0.6)
    start = init_state({"unet": {"w": jnp.float32(1.0)}}, toy.tx, 3, scaled=False, averaged=True)
    theirs = torch.nn.Parameter(torch.tensor(1.0))
    ema = EMAModel([theirs], decay=0.6)
    state = jax.tree.map(jnp.copy, start)  # which may be donated, no buffer twice
    for x in np.random.default_rng(0).normal(size=20).astype(np.float32):
        state, _ = step(state, {}, jnp.full(2, x))
        theirs.data = torch.tensor(weight(state.params))
        ema.step([theirs])
        assert float(state.learned["unet"]["w"]) == pytest.approx(
            ema.shadow_params[0].item(), rel=1e-6
        )
    assert float(state.learned["unet"]["w"]) != weight(state.params)


def test_a_failed_step_leaves_the_running_mean() -> None:
    toy = Toy(lambda w, x, draws: w * x)
    step = make_train_step(toy.loss, toy.tx, ema_decay=0.6)
    state = init_state({"unet": {"w": jnp.float32(1.0)}}, toy.tx, 3, scaled=False, averaged=True)
    state, _ = step(jax.tree.map(jnp.copy, state), {}, jnp.ones(2))
    before = float(state.learned["unet"]["w"])
    state, metrics = step(state, {}, jnp.array([jnp.nan, 1.0]))
    assert bool(metrics.failed) and float(state.learned["unet"]["w"]) == before


def test_an_update_past_float32_changes_nothing_and_is_told() -> None:
    toy = Toy(lambda w, x, draws: w * x)
    tx = optax.sgd(3e38)
    state = init_state({"unet": {"w": jnp.float32(1.0)}}, tx, 0, scaled=False)
    state, metrics = make_train_step(toy.loss, tx)(state, {}, jnp.full(2, 10.0))
    assert bool(metrics.failed) and np.isfinite(float(metrics.loss))
    assert weight(state.params) == 1.0
