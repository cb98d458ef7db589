"""The jitted training step: (state, frozen, batch) -> (state, metrics).

All random numbers come from fold_in(key, step), so a resumed run draws the same ones. Frozen leaves
are a separate argument that no gradient, optimizer state or update ever touches.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import ArrayLike, PyTree
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from flax_sd.system.program import Program, Structure, divided, remembered
from flax_sd.training.flat import Flat, Starts, flatten
from flax_sd.training.losses import Loss, Trees
from flax_sd.training.optim import Optimizer

GROWTH_INTERVAL = 2000  # steps without overflow after which the loss scale doubles, as in torch
INITIAL_SCALE = 2.0**16
Constraint = Callable[[Trees, Trees], Trees]
Transform = optax.GradientTransformation | Optimizer


class LossScale(NamedTuple):
    """Dynamic loss scaling of float16 training (Micikevicius et al. 2018, §3.2)."""

    scale: jax.Array  # float32
    good_steps: jax.Array  # int32, steps since the last overflow or doubling


class TrainState(NamedTuple):
    """All that a step changes, and the random key, which it does not."""

    step: jax.Array  # int32, steps done
    params: Flat  # the trained leaves of each component, float32
    opt_state: optax.OptState
    loss_scale: LossScale
    key: jax.Array
    starts: Starts  # of the leaves in params
    ema: Flat | None = None  # the running mean of params, if one is kept

    @property
    def learned(self) -> Trees:
        """The parameters for samples, evaluation and results: a running mean, if there is one."""
        learned: Any = self.params if self.ema is None else self.ema
        if isinstance(self.opt_state, ScheduleFreeState):
            learned = schedule_free_eval_params(self.opt_state, learned)
        return learned.tree_on_devices(self.starts)


class Metrics(NamedTuple):
    """Scalars of one step."""

    loss: jax.Array
    grad_norm: jax.Array  # before clipping
    skipped: jax.Array  # bool: a scaled gradient overflowed, nothing was updated
    failed: jax.Array  # bool: loss, unscaled gradient or new weights not finite, nothing updated
    loss_scale: jax.Array  # by which the gradient was scaled; 1 unless in float16


def init_state(
    params: Trees,
    tx: Transform,
    seed: int,
    *,
    scaled: bool,
    averaged: bool = False,
) -> TrainState:
    """Returns the state before the first step.

    Args:
      scaled: starts float16's loss scale.
      averaged: starts a running mean of the trained leaves.
    """
    scale = jnp.float32(INITIAL_SCALE if scaled else 1.0)
    flat: Any = flatten(params, tx.kind) if isinstance(tx, Optimizer) else flatten(params)
    return TrainState(
        step=jnp.int32(0),
        params=flat,
        opt_state=tx.init(flat),
        loss_scale=LossScale(scale, jnp.int32(0)),
        key=jax.random.key(seed),
        starts=flat.starts,
        ema=jax.tree.map(jnp.copy, flat) if averaged else None,
    )


class StepSettings(NamedTuple):
    """What a step is built for; its numbers are arguments of the program (`divided`)."""

    loss: Loss
    tx: Transform
    ema_decay: float | None
    constrain: Constraint | None


def make_train_step(
    loss: Loss,
    tx: Transform,
    *,
    accumulate: int = 1,
    scaled: bool = False,
    ema_decay: float | None = None,
    constrain: Constraint | None = None,
    mesh: Mesh | None = None,
) -> Program[[TrainState, Trees, PyTree], tuple[TrainState, Metrics]]:
    """Builds the jitted step; the state is donated, the frozen leaves are not.

    Args:
      accumulate: number of parts that the batch is divided into; their gradients are averaged.
      scaled: float16's dynamic loss scaling: an overflow halves the scale and skips the update.
      ema_decay: decay of the running mean, for a state that has one.
      constrain: (trained, frozen leaves) -> the trained ones after each update.
      mesh: the devices that share the batch, for kernels that the compiler cannot divide.
    """
    numbers, structure = divided(StepSettings(loss, tx, ema_decay, constrain))
    return _step_of(structure, accumulate, scaled, mesh).with_first(numbers, mesh)


@remembered
def _step_of(structure: Structure, accumulate: int, scaled: bool, mesh: Mesh | None) -> Program:
    """Builds the step for settings of that structure, with their numbers as its first argument."""

    def step(
        numbers: Sequence[jax.Array], state: TrainState, frozen: Trees, batch: PyTree
    ) -> tuple[TrainState, Metrics]:
        loss, tx, ema_decay, constrain = structure.filled(numbers)
        draws = loss.draw(jax.random.fold_in(state.key, state.step), batch)

        def scaled_loss(params: Trees, part: PyTree) -> tuple[jax.Array, jax.Array]:
            value = jnp.mean(loss.loss(params, frozen, *part))
            return (value * state.loss_scale.scale if scaled else value), value

        def gradient(part: PyTree) -> tuple[jax.Array, Flat]:
            of_leaves = jax.value_and_grad(scaled_loss, has_aux=True)
            (_, value), grads = of_leaves(state.params.tree(state.starts), part)
            return value, state.params.with_tree(grads)

        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if mesh else nullcontext():
            value, grads = _mean_over_parts(gradient, (batch, draws), accumulate)
        if scaled:
            grads = jax.tree.map(lambda g: g / state.loss_scale.scale, grads)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(grad_norm)
        overflow = jnp.bool_(False)
        if scaled:  # at the smallest scale, 1, an overflow is the loss's own
            overflow = ~finite & jnp.isfinite(value) & (state.loss_scale.scale > 1)
        new = _update(state, grads, tx)
        if constrain is not None:
            limited = constrain(new.params.tree(state.starts), frozen)
            new = new._replace(params=new.params.with_tree(limited))
        new = _average(new, ema_decay)
        good = finite & jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(new.params))
        params, opt_state, ema = jax.tree.map(
            lambda a, b: jnp.where(good, a, b),
            (new.params, new.opt_state, new.ema),
            (state.params, state.opt_state, state.ema),
        )
        scale = _next_scale(state.loss_scale, good, overflow) if scaled else state.loss_scale
        new = TrainState(state.step + 1, params, opt_state, scale, state.key, state.starts, ema)
        used = state.loss_scale.scale
        return new, Metrics(value, grad_norm, overflow, ~good & ~overflow, used)

    def weights(state: TrainState, frozen: Trees, batch: PyTree) -> PyTree:
        return state.params, frozen  # not the optimizer's state: it makes no network larger

    return Program(step, weights, {"donate_argnums": 1})


def _update(state: TrainState, grads: Any, tx: Transform) -> TrainState:
    params: Any = state.params  # optax's types do not know that any pytree will do
    updates, opt_state = tx.update(grads, state.opt_state, params)
    return state._replace(params=optax.apply_updates(params, updates), opt_state=opt_state)


def _average(state: TrainState, decay: ArrayLike | None) -> TrainState:
    """Moves the running mean towards the leaves, faster in the first steps, as diffusers' EMAModel.

    After the first step it is equal to the leaves, so that the untrained ones do not count.
    """
    if decay is None:
        return state
    warming_up = jnp.where(state.step > 0, (1 + state.step) / (10 + state.step), 0.0)
    kept = jnp.minimum(decay, warming_up)
    ema = jax.tree.map(lambda mean, leaf: leaf + kept * (mean - leaf), state.ema, state.params)
    return state._replace(ema=ema)


def _mean_over_parts(
    gradient: Callable[[PyTree], tuple[jax.Array, Flat]], arrays: PyTree, parts: int
) -> tuple[jax.Array, Flat]:
    """Computes loss and gradient of the whole batch, in equal parts one after another."""
    if parts == 1:
        return gradient(arrays)

    def add(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, gradient(part)), None

    # Part i takes rows i, i + parts, …: with the batch divided over devices in blocks, every
    # part then has rows on every device and none moves.
    split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), arrays)
    shapes = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], split))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zero, split)
    value, grads = jax.tree.map(lambda x: x / parts, total)
    return value, grads


def _next_scale(old: LossScale, good: jax.Array, overflow: jax.Array) -> LossScale:
    grown = good & (old.good_steps + 1 >= GROWTH_INTERVAL)
    scale = jnp.where(
        overflow,
        jnp.maximum(old.scale / 2, 1.0),
        jnp.where(grown, old.scale * 2, old.scale),
    )
    return LossScale(scale, jnp.where(overflow | grown, 0, old.good_steps + good).astype(jnp.int32))
