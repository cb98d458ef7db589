"""DPM-Solver and DPM-Solver++, singlestep (Lu et al. 2022, arXiv 2206.00927 and 2211.01095)."""

import dataclasses
from typing import Literal

from flax_sd.samplers.dpm_update import log_snr_half, update
from flax_sd.samplers.forms import Form
from flax_sd.samplers.levels import Level
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.sigmas import training_sigmas
from flax_sd.samplers.solver_steps import DPMConfig, training_steps, visited


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSinglestepConfig(DPMConfig):
    """The fields of diffusers' `DPMSolverSinglestepScheduler`."""

    algorithm_type: Literal["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "deis"] = "dpmsolver++"
    lower_order_final: bool = False


def make_dpm_singlestep(config: DPMSinglestepConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `DPMSolverSinglestepScheduler` is with this config.

    A round goes to the first level with one call, to the second with two, and so on: each time from
    where the round began, with a prediction more.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    algorithm = "dpmsolver++" if config.algorithm_type == "deis" else config.algorithm_type
    config.check(algorithm)
    sigmas = training_sigmas(config)
    last = training_steps(sigmas, config.lambda_min_clipped)
    steps = visited(config, num_inference_steps, sigmas, last=last)
    levels = steps.levels(0 if config.final_sigmas_type == "zero" else sigmas[0])
    run = Recording(config.prediction_type, config.clip())
    x, begin, predictions, starts = run.x, run.x, list[Form](), list[Level]()  # oldest first
    for order, here, there in zip(
        _orders(config, len(levels) - 1), levels, levels[1:], strict=False
    ):
        at = run.predict(x, here)
        if order == 1:
            begin, predictions, starts = at.x, [], []
        predictions.append(run.keep(at.x0 if algorithm.endswith("++") else at.epsilon_in_range))
        starts.append(here)
        weights = update(algorithm, starts[0], there)
        x = begin * weights.x + predictions[0] * weights.d0
        x += _correction(predictions, starts, there, algorithm, config.solver_type)
        if algorithm.startswith("sde-"):
            x += run.noise() * weights.noise
    return run.sampler(x)


def _orders(config: DPMSinglestepConfig, n: int) -> list[int]:
    """Returns the order of each step: rounds of rising orders, and lower ones at the end."""
    k = config.solver_order
    orders = [1 + i % k for i in range(n)]
    lowers = config.lower_order_final or n % k != 0 or config.final_sigmas_type == "zero"
    if lowers and n % k == 0 and k > 1:
        orders[-k:] = [*range(1, k), 1]
    if config.final_sigmas_type == "zero":
        orders[-1] = 1
    return orders


def _correction(
    predictions: list[Form], starts: list[Level], end: Level, algorithm: str, solver_type: str
) -> Form:
    """Returns what the second and third predictions of a round (oldest first) add to its step."""
    if len(predictions) == 1:
        return Form({})
    weights = update(algorithm, starts[0], end)
    times = [log_snr_half(level) for level in starts]
    h = log_snr_half(end) - times[0]
    places = [(time - times[0]) / h for time in times[1:]]
    slopes = [
        (later - predictions[0]) / place
        for later, place in zip(predictions[1:], places, strict=True)
    ]
    if len(slopes) == 1:
        return slopes[0] * (weights.d1 if solver_type == "heun" else weights.d1_midpoint)
    if solver_type != "heun":
        return slopes[1] * weights.d1
    near, far = places
    first = (slopes[0] * far - slopes[1] * near) / (far - near)
    second = (slopes[1] - slopes[0]) * 2 / (far - near)
    return first * weights.d1 + second * weights.d2
