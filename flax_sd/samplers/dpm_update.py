"""One step of DPM-Solver: the exact solution of the linear part, and a Taylor series of the rest.

Lu et al. 2022 (arXiv 2206.00927 and 2211.01095). With H = λ_end - λ_start, up to its sign, the
weights are e^H - 1 and its remainders.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from flax_sd.samplers.forms import Form
from flax_sd.samplers.levels import Level
from flax_sd.samplers.recording import Recording

FEW = 15  # steps below which lower_order_final has an effect


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMOrders:
    """The fields that choose the order of each step of a multistep method."""

    solver_order: Literal[1, 2, 3] = 2
    lower_order_final: bool = True
    euler_at_final: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    def orders(self, n: int) -> list[int]:
        """Returns the order that each of n steps may have: the last are lower, for stability."""
        orders, lowers = [int(self.solver_order)] * n, self.lower_order_final and n < FEW
        if lowers:
            orders[-2:] = [min(order, 2) for order in orders[-2:]]
        if lowers or self.euler_at_final or self.final_sigmas_type == "zero":
            orders[-1] = 1
        return orders


class Update(NamedTuple):
    """The weights of x, of the prediction D0 and its divided differences, and of noise."""

    x: np.float64
    d0: np.float64
    d1: np.float64  # "heun"
    d2: np.float64
    noise: np.float64

    @property
    def d1_midpoint(self) -> np.float64:
        """The weight of D1 where the prediction halfway stands for all of the step."""
        return self.d0 / 2


def log_snr_half(level: Level) -> np.float64:
    """Returns λ = log(signal / sigma), infinite without noise."""
    return np.log(level.signal) - np.log(level.sigma)


def update(algorithm: str, start: Level, end: Level) -> Update:
    """Returns the weights of a step.

    Args:
      algorithm: "dpmsolver++" for predictions of x_0, "dpmsolver" for those of noise, and
        "sde-dpmsolver++" and "sde-dpmsolver" for their stochastic forms.
      start: the level from which x and the differences are taken.
      end: the level to go to.
    """
    h = log_snr_half(end) - log_snr_half(start)
    is_sde = algorithm.startswith("sde-")
    if algorithm.endswith("++"):
        exponent, scale = (-2 * h if is_sde else -h), end.signal
        x = end.sigma / start.sigma * (np.exp(-h) if is_sde else 1)
        noise = end.sigma * np.sqrt(-np.expm1(-2 * h))
    else:
        exponent, scale = h, end.sigma * (2 if is_sde else 1)
        x = end.signal / start.signal
        noise = end.sigma * np.sqrt(np.expm1(2 * h))
    first = np.expm1(exponent)
    d1 = -scale * (first / exponent - 1)
    # diffusers has this sign of one half for "sde-dpmsolver++", which is not the series'.
    half = -0.5 if algorithm == "sde-dpmsolver++" else 0.5
    d2 = -scale * ((first - exponent) / exponent**2 - half)
    return Update(x, -scale * first, d1, d2, noise)


def multistep(
    run: Recording, levels: Sequence[Level], orders: Sequence[int], algorithm: str, solver_type: str
) -> Form:
    """Takes all steps of a multistep method, and returns the last x.

    Args:
      run: the recording.
      levels: of each step, and where the last one ends.
      orders: the order of each step; the first ones are lower, as they have fewer predictions.
      algorithm: as for `update`.
      solver_type: "heun" for the series' own second order, anything else for the midpoint's.
    """
    x, predictions, starts = run.x, list[Form](), list[Level]()  # newest first
    for order, here, there in zip(orders, levels, levels[1:], strict=False):
        at = run.predict(x, here)
        prediction = at.x0 if algorithm.endswith("++") else at.epsilon_in_range
        predictions = [run.keep(prediction), *predictions][:3]
        starts = [here, *starts][:3]
        weights = update(algorithm, here, there)
        differences = _differences(predictions[:order], starts, there)
        seconds = weights.d1_midpoint, weights.d1
        second = seconds[len(differences) == 3 or solver_type == "heun"]
        x = at.x * weights.x
        for difference, weight in zip(differences, (weights.d0, second, weights.d2), strict=False):
            x += difference * weight
        if algorithm.startswith("sde-"):
            x += run.noise() * weights.noise
    return x


def _differences(
    predictions: Sequence[Form], starts: Sequence[Level], end: Level
) -> tuple[Form, ...]:
    """Returns D0, D1 and D2, as many as there are predictions (newest first)."""
    newest, *older = predictions
    if not older:
        return (newest,)
    times = [log_snr_half(level) for level in starts]
    h = log_snr_half(end) - times[0]
    r0 = (times[0] - times[1]) / h
    first = (newest - older[0]) / r0
    if len(older) == 1:
        return newest, first
    r1 = (times[1] - times[2]) / h
    before = (older[0] - older[1]) / r1
    second = (first - before) / (r0 + r1)
    return newest, first + second * r0, second
