"""SA-Solver: a stochastic Adams method, predictor and corrector (Xue et al. 2023, 2309.05019)."""

import dataclasses
import itertools
from collections.abc import Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.polynomial import Polynomial

from flax_sd.samplers.dpm_update import log_snr_half
from flax_sd.samplers.forms import Form
from flax_sd.samplers.levels import Level
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.sigmas import training_sigmas
from flax_sd.samplers.solver_steps import SolverConfig, SolverSpacing, training_steps, visited


@dataclasses.dataclass(frozen=True, kw_only=True)
class SASolverConfig(SolverConfig, SolverSpacing):
    """The fields of diffusers' `SASolverScheduler`."""

    unsupported = MappingProxyType({"tau_func": None})

    predictor_order: Literal[1, 2, 3, 4] = 2
    corrector_order: Literal[1, 2, 3, 4] = 2
    algorithm_type: Literal["data_prediction", "noise_prediction"] = "data_prediction"
    lower_order_final: bool = True
    lambda_min_clipped: float | None = None
    variance_type: str | None = None


def make_sa_solver(config: SASolverConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `SASolverScheduler` is with this config.

    It ends at the lowest level of training. Noise is added at timesteps from 200 to 800.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    sigmas = training_sigmas(config)
    last = training_steps(sigmas, config.lambda_min_clipped)
    steps = visited(config, num_inference_steps, sigmas, last=last)
    levels = steps.levels(steps.lowest(config, sigmas))
    total = len(levels) - 1
    data = config.algorithm_type == "data_prediction"
    run = Recording(config.prediction_type, config.clip())
    x, begin, noise, earlier = run.x, run.x, Form({}), list[tuple[Level, Form]]()  # newest first
    for i, (here, there) in enumerate(itertools.pairwise(levels)):
        at = run.predict(x, here)
        points = [(here, run.keep(at.x0 if data else at.epsilon_in_range)), *earlier]
        begin_here = at.x
        if i > 0:
            most = total - i + 2 if config.lower_order_final else total
            order = min(config.corrector_order, most, i + 1)
            step = _Step(levels[i - 1], here, data=data)
            begin_here = run.keep(step.take(begin, points[:order], noise, corrects=True))
        begin, noise = begin_here, run.keep(run.noise())
        most = total - i if config.lower_order_final else total
        order = min(config.predictor_order, most, i + 1)
        x = _Step(here, there, data=data).take(begin, points[:order], noise)
        earlier = points[: max(config.predictor_order, config.corrector_order - 1)]
    return run.sampler(x)


class _Step:
    """One step of the method: the integral of a polynomial through the predictions, and noise."""

    def __init__(self, start: Level, end: Level, *, data: bool):
        self.start, self.end, self.data = start, end, data
        self.times = log_snr_half(start), log_snr_half(end)
        self.h = self.times[1] - self.times[0]
        self.tau = 1 if 200 <= float(start.t) <= 800 else 0

    def take(
        self,
        x: Form,
        points: Sequence[tuple[Level, Form]],
        noise: Form,
        *,
        corrects: bool = False,
    ) -> Form:
        """Returns x at the end (eq. 14 and 17), from predictions at levels (newest first)."""
        start, end, h, tau = self.start, self.end, self.h, self.tau
        if self.data:
            x = x * (np.exp(-(tau**2) * h) * end.sigma / start.sigma)
            scale = (1 + tau**2) * end.sigma * np.exp(-(tau**2) * self.times[1])
            noise = noise * (end.sigma * np.sqrt(-np.expm1(-2 * tau**2 * h)))
        else:
            x = x * (end.signal / start.signal)
            scale = -(1 + tau**2) * end.signal
            noise = noise * (tau * end.sigma * np.sqrt(np.expm1(2 * h)))
        weights = self._weights([log_snr_half(level) for level, _ in points])
        if self.data and len(points) == 2:
            weights += self._second_order(points, corrects=corrects) * np.array([1, -1])
        for (_, prediction), weight in zip(points, weights, strict=True):
            x += prediction * (scale * weight)
        return x + noise

    def _weights(self, times: Sequence[np.float64]) -> np.ndarray:
        """Returns the integral of each Lagrange polynomial in λ, times e^(aλ)."""
        a = 1 + self.tau**2 if self.data else -1
        weights = []
        for k, own in enumerate(times):
            basis = Polynomial([1.0])
            for other in np.delete(times, k):
                basis *= Polynomial([-other, 1.0]) / (own - other)
            # ∫ e^(aλ) p(λ) dλ = e^(aλ) (p / a - p' / a² + p'' / a³ - …)(λ)
            series = sum((-1) ** j * basis.deriv(j) / a ** (j + 1) for j in range(1, len(times)))
            series += basis / a
            weights.append(np.diff([np.exp(a * time) * series(time) for time in self.times])[0])
        return np.array(weights)

    def _second_order(self, points: Sequence[tuple[Level, Form]], *, corrects: bool) -> np.float64:
        """Returns diffusers' change of the second order, which keeps it accurate in few steps."""
        a, h = 1 + self.tau**2, self.h
        rest = (h * a - 1 + np.exp(-a * h)) / a**2
        scale = np.exp(a * self.times[1])
        if corrects:
            return scale * (h / 2 - rest / h)
        before = log_snr_half(points[1][0])
        return scale * (h**2 / 2 - rest) / (self.times[0] - before)
