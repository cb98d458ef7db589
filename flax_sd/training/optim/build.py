"""A run's optimizer: clips, applies the method, decays, scales by each leaf's rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jaxtyping import ArrayLike, Float32, PyTree

from flax_sd.config import OptimConfig
from flax_sd.system.compiler import remembered
from flax_sd.training.optim import rates
from flax_sd.training.optim.methods import DIRECTIONS, SELF_RATED, betas
from flax_sd.training.optim.transforms import by_path, clip_by_global_norm, dotted, scale_by_adam

MIN_RATE = 1e-6  # of the peak; a first step at a rate of 0 would give 0 / 0 in self-rated methods


def make_optimizer(cfg: OptimConfig, total_steps: int) -> optax.GradientTransformation:
    """Builds the optimizer of a tree of leaves by component, as {"unet": …}.

    First the whole gradient is clipped to `max_grad_norm`; each leaf then has its own learning rate
    and weight decay.

    Args:
      cfg: the method, rates, decays and schedule.
      total_steps: the last step of the schedule.

    Raises:
      UserError: the schedule cannot fall from this learning rate; at `init`, a pattern of
        `cfg.rates` matches nothing.
    """
    rates.check_schedule(cfg)
    # A table computed in float64: in float32, restarts would be off by a step.
    factors = [rates.rate_factor(cfg, step, total_steps) for step in range(total_steps + 1)]
    while len(factors) > 1 and factors[-1] == factors[-2]:
        factors.pop()  # so a constant rate gives the same program for any number of steps
    return _build(cfg, np.asarray(factors, np.float32))


@remembered
def _build(cfg: OptimConfig, table: Float32[np.ndarray, " n"]) -> optax.GradientTransformation:
    """Builds the optimizer; `table` is the rate at each step, relative to the peak."""

    def schedule(count: ArrayLike) -> jax.Array:
        return jnp.asarray(table)[jnp.minimum(count, len(table) - 1)]

    tx = _method(cfg, schedule)
    if cfg.max_grad_norm:
        tx = optax.chain(clip_by_global_norm(cfg.max_grad_norm), tx)
    if cfg.method == "schedule_free":  # outermost: samples read the mean in its state
        tx = optax.contrib.schedule_free(
            tx, lambda count: cfg.learning_rate * schedule(count), b1=betas(cfg)[0]
        )
    return _checked(cfg, tx)


def _method(cfg: OptimConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Builds the transform of clipped gradients into updates of the leaves."""
    if own := SELF_RATED.get(cfg.method):
        whole = own(cfg, lambda count: cfg.learning_rate * jnp.maximum(schedule(count), MIN_RATE))
        share = by_path(lambda path, u, _: u * (rates.peak_rate(cfg, path) / cfg.learning_rate))
        return optax.chain(whole, share)
    if cfg.method == "schedule_free":  # it replaces the first mean
        direction = scale_by_adam(0.0, betas(cfg)[1], cfg.epsilon)
    else:
        direction = DIRECTIONS[cfg.method](cfg)
    return optax.chain(
        direction,
        by_path(lambda path, u, p: -rates.peak_rate(cfg, path) * (u + rates.decay(cfg, path) * p)),
        optax.scale_by_schedule(schedule),
    )


def _checked(cfg: OptimConfig, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    def init(params: PyTree) -> optax.OptState:
        leaves, _ = jax.tree_util.tree_flatten_with_path(params)
        rates.check_patterns(cfg, [dotted(path) for path, _ in leaves])
        return tx.init(params)

    return optax.GradientTransformation(init, tx.update)
