"""A run's optimizer: clips, applies the method, decays, scales by each leaf's rate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jaxtyping import ArrayLike, Float32, PyTree

from flax_sd.config import OptimConfig
from flax_sd.system.program import is_off
from flax_sd.training.flat import dotted, trees
from flax_sd.training.optim import rates
from flax_sd.training.optim.methods import DIRECTIONS, SELF_RATED, Method, make_method
from flax_sd.training.optim.rates import Rates
from flax_sd.training.optim.transforms import (
    NO_MEAN,
    Number,
    by_path,
    clip_by_global_norm,
    scale_by_adam,
)

MIN_RATE = 1e-6  # of the peak; a first step at a rate of 0 would give 0 / 0 in self-rated methods
# Methods that update a number by its own gradient and sums over all alone: leaves may be joined.
ELEMENTWISE = ("adamw", "lion", "sgd", "prodigy", "dadapt", "schedule_free")
TABLE_SIZE = 2**16  # updates; shorter runs have one program, whatever their number of steps


class Optimizer(NamedTuple):
    """The transform of a tree of leaves by component, as {"unet": …}, or of a `Flat` of it.

    First the whole gradient is clipped to `max_grad_norm`; each leaf then has its own learning rate
    and weight decay.

    Attributes:
      table: rate of each update, relative to the peak; float32.
    """

    method: Method
    rates: Rates
    max_grad_norm: Number
    table: np.ndarray | jax.Array

    def kind(self, path: str) -> object:
        """Returns equal values for the paths of leaves that may be joined."""
        return self.rates.kind(path) if self.method.name in ELEMENTWISE else path

    def init(self, params: PyTree) -> optax.OptState:
        """Returns the state before the first update.

        Raises:
          UserError: a pattern of `optim.rates` matches nothing.
        """
        leaves, _ = jax.tree_util.tree_flatten_with_path(trees(params))
        self.rates.check([dotted(path) for path, _ in leaves])
        return self._transform().init(params)

    def update(
        self, updates: PyTree, state: optax.OptState, params: PyTree
    ) -> tuple[PyTree, optax.OptState]:
        """Returns what is added to the leaves for a gradient, and the next state."""
        return self._transform().update(updates, state, params)

    def _transform(self) -> optax.GradientTransformation:
        tx = self._unclipped()
        if not is_off(self.max_grad_norm):
            tx = optax.chain(clip_by_global_norm(self.max_grad_norm), tx)
        if self.method.name == "schedule_free":  # outermost: samples read the mean in its state
            tx = optax.contrib.schedule_free(tx, self._peak, b1=self.method.beta1.value)
        return tx

    def _unclipped(self) -> optax.GradientTransformation:
        """Builds the transform of clipped gradients into updates of the leaves."""
        own, rate = self.method, self.rates
        if make := SELF_RATED.get(own.name):
            whole = make(own, rate.weight_decay, lambda count: self._peak(count, MIN_RATE))
            share = by_path(lambda path, u, _: u * (rate.peak(path) / rate.learning_rate))
            return optax.chain(whole, share)
        if own.name == "schedule_free":  # it replaces the first mean
            direction = scale_by_adam(NO_MEAN, own.beta2, own.epsilon)
        else:
            direction = DIRECTIONS[own.name](own)
        return optax.chain(
            direction,
            by_path(lambda path, u, p: -rate.peak(path) * (u + rate.decay(path) * p)),
            optax.scale_by_schedule(self._factor),
        )

    def _factor(self, count: ArrayLike) -> jax.Array:
        table = jnp.asarray(self.table)
        return table[jnp.minimum(count, len(table) - 1)]

    def _peak(self, count: ArrayLike, least: float = 0.0) -> jax.Array:
        return self.rates.learning_rate * jnp.maximum(self._factor(count), least)


def make_optimizer(cfg: OptimConfig, total_steps: int) -> Optimizer:
    """Builds the optimizer of a run.

    Args:
      cfg: the method, rates, decays and schedule.
      total_steps: the last step of the schedule.

    Raises:
      UserError: the schedule cannot fall from this learning rate.
    """
    rates.check_schedule(cfg)
    table = _table(cfg, total_steps)
    return Optimizer(make_method(cfg), Rates.of(cfg), cfg.max_grad_norm, table)


def _table(cfg: OptimConfig, total_steps: int) -> Float32[np.ndarray, " n"]:
    """Computes the factors in float64: in float32, restarts would be off by a step."""
    factors = [rates.rate_factor(cfg, step, total_steps) for step in range(total_steps + 1)]
    size = max(TABLE_SIZE, 1 << total_steps.bit_length())
    return np.pad(np.asarray(factors, np.float32), (0, size - len(factors)), "edge")
