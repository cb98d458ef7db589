"""DEIS: an exponential integrator of polynomials in log ρ (Zhang & Chen 2022, arXiv 2204.13902)."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.polynomial import Polynomial

from flax_sd.samplers.levels import Level
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.sigmas import training_sigmas
from flax_sd.samplers.solver_steps import SolverConfig, SolverSpacing, visited

FEW = 15  # steps below which lower_order_final has an effect


@dataclasses.dataclass(frozen=True, kw_only=True)
class DEISConfig(SolverConfig, SolverSpacing):
    """The fields of diffusers' `DEISMultistepScheduler`."""

    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["deis", "dpmsolver", "dpmsolver++"] = "deis"
    solver_type: Literal["logrho", "midpoint", "heun", "bh1", "bh2"] = "logrho"
    lower_order_final: bool = True


def make_deis(config: DEISConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `DEISMultistepScheduler` is with this config.

    x / signal changes by the integral over ρ = sigma / signal of the predicted noise, which is a
    polynomial in log ρ through the last predictions. It ends at the lowest level of training.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    sigmas = training_sigmas(config)
    steps = visited(config, num_inference_steps, sigmas)
    levels = steps.levels(steps.lowest(config, sigmas))
    total = len(levels) - 1
    run = Recording(config.prediction_type, config.clip())
    x, predictions, starts = run.x, [], []  # newest first
    for i, (here, there) in enumerate(itertools.pairwise(levels)):
        at = run.predict(x, here)
        order = min(i + 1, config.solver_order)
        if config.lower_order_final and total < FEW:
            order = min(order, total - i)
        predictions = [run.keep(at.epsilon_of_x0), *predictions][: config.solver_order]
        starts = [here, *starts][: config.solver_order]
        x = at.x * (there.signal / here.signal)
        weights = _weights([_rho(level) for level in starts[:order]], _rho(there))
        for prediction, weight in zip(predictions, weights, strict=False):
            x += prediction * (there.signal * weight)
    return run.sampler(x)


def _rho(level: Level) -> np.float64:
    return level.sigma / level.signal


def _weights(rhos: Sequence[np.float64], end: np.float64) -> list[float]:
    """Returns the integral, from the newest ρ to the end, of each Lagrange polynomial in log ρ."""
    logs = np.log(rhos)
    weights = []
    for k, own in enumerate(logs):
        basis = Polynomial([1.0])
        for other in np.delete(logs, k):
            basis *= Polynomial([-other, 1.0]) / (own - other)
        # ∫ p(log ρ) dρ = ρ (p - p' + p'' - …)(log ρ)
        integral = sum((-1) ** j * basis.deriv(j) for j in range(1, len(logs))) + basis
        weights.append(end * integral(np.log(end)) - rhos[0] * integral(logs[0]))
    return weights
