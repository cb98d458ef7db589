"""UniPC: a predictor, and a corrector without a further call (Zhao et al. 2023, 2302.04867)."""

import dataclasses
import itertools
from collections.abc import Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from flax_sd.errors import UserError
from flax_sd.samplers.dpm_update import log_snr_half
from flax_sd.samplers.forms import Form
from flax_sd.samplers.levels import Level
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.sigma_spacing import Ends
from flax_sd.samplers.sigmas import training_sigmas
from flax_sd.samplers.solver_steps import (
    NO_DYNAMIC_SHIFT,
    SolverConfig,
    SolverSpacing,
    Visited,
    shifted,
    visited,
)

CLOSEST = 1e-6  # of the first σ to 1, where flow matching has no signal


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniPCConfig(SolverConfig, SolverSpacing):
    """The fields of diffusers' `UniPCMultistepScheduler`."""

    unsupported = MappingProxyType({**NO_DYNAMIC_SHIFT, "solver_p": None, "shift_terminal": None})

    solver_order: Annotated[int, pydantic.Field(ge=1, le=9)] = 2
    predict_x0: bool = True
    solver_type: Literal["bh2", "bh1", "midpoint", "heun", "logrho"] = "bh2"
    lower_order_final: bool = True
    disable_corrector: tuple[Any, ...] = ()
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    rescale_betas_zero_snr: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None


def make_unipc(config: UniPCConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `UniPCMultistepScheduler` is with this config.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    if config.final_sigmas_type == "zero":
        _check_end(config)
    levels = _levels(config, num_inference_steps)
    total = len(levels) - 1
    run = Recording(config.prediction_type, config.clip())
    solver = _UniPC(config)
    x, order = run.x, 0
    for i, (here, there) in enumerate(itertools.pairwise(levels)):
        at = run.predict(x, here)
        prediction = run.keep(at.x0 if config.predict_x0 else at.epsilon)
        start = at.x
        if i > 0 and i - 1 not in config.disable_corrector:
            start = run.keep(solver.step(here, order, prediction))
        order = min(config.solver_order, i + 1)
        if config.lower_order_final:
            order = min(order, total - i)
        solver.begin(here, start, prediction)
        x = solver.step(there, order)
    return run.sampler(x)


def _check_end(config: UniPCConfig) -> None:
    """Refuses what cannot end without noise."""
    problems = []
    if not config.predict_x0:
        problems.append("predict_x0 is false: should be true")
    if config.solver_order > 1 and not config.lower_order_final:
        problems.append("lower_order_final is false: should be true")
    if problems:
        raise UserError(f"final_sigmas_type should be sigma_min; or else {', '.join(problems)}")


def _levels(config: UniPCConfig, n: int) -> list[Level]:
    """Returns the level of each step, and where the last one ends."""
    sigmas = training_sigmas(config, zero_snr=config.rescale_betas_zero_snr)
    steps = visited(config, n, sigmas, ends=Ends(config.sigma_max, config.sigma_min))
    if config.use_flow_sigmas:
        total = config.num_train_timesteps
        if config.spread is None:
            own = shifted(np.linspace(1, 1 / total, n + 1)[:-1], config.flow_shift)
            own[0] -= CLOSEST if abs(own[0] - 1) < CLOSEST else 0
        else:
            own = steps.sigmas / (steps.sigmas + 1)
        steps = Visited(timesteps=own * total, sigmas=own, is_flow=True)
    return steps.levels(0 if config.final_sigmas_type == "zero" else steps.lowest(config, sigmas))


class _UniPC:
    """Steps from the last level, with the predictions so far (newest first)."""

    def __init__(self, config: UniPCConfig):
        self._config = config
        self._starts: list[Level] = []
        self._predictions: list[Form] = []
        self._x = Form({})

    def begin(self, level: Level, x: Form, prediction: Form) -> None:
        """Goes on from a level, with the x and the prediction there."""
        self._x = x
        self._starts = [level, *self._starts][: self._config.solver_order]
        self._predictions = [prediction, *self._predictions][: self._config.solver_order]

    def step(self, end: Level, order: int, there: Form | None = None) -> Form:
        """Returns x at a level: predicted, or corrected by the prediction there (eq. 3 and 4)."""
        data, start = self._config.predict_x0, self._starts[0]
        times = [log_snr_half(level) for level in (end, *self._starts[:order])]
        h = times[0] - times[1]
        exponent = -h if data else h
        newest, *older = self._predictions[:order]
        places = [(time - times[1]) / h for time in times[2:]]
        differences = [(m - newest) / place for m, place in zip(older, places, strict=True)]
        if there is not None:
            places, differences = [*places, 1.0], [*differences, there - newest]
        rest = Form({})
        for weight, difference in zip(self._weights(places, exponent), differences, strict=True):
            rest += difference * weight
        scale = end.signal if data else end.sigma
        kept = end.sigma / start.sigma if data else end.signal / start.signal
        step = newest * np.expm1(exponent) + rest * self._of(exponent)
        return self._x * kept - step * scale

    def _of(self, exponent: np.float64) -> np.float64:
        """Returns B(h) of the paper."""
        return exponent if self._config.solver_type == "bh1" else np.expm1(exponent)

    def _weights(self, places: Sequence[float], exponent: np.float64) -> np.ndarray:
        """Returns the weights of the differences, which match the series up to their number.

        One weight alone is ½, which is not the solution, but does not need it either (§3.3).
        """
        if len(places) < 2:
            return np.full(len(places), 0.5)
        phi, factorial, sides = np.expm1(exponent) / exponent - 1, 1, []
        for k in range(len(places)):
            sides.append(phi * factorial / self._of(exponent))
            factorial *= k + 2
            phi = phi / exponent - 1 / factorial
        return np.linalg.solve(np.vander(places, increasing=True).T, sides)
