"""DPM-Solver and DPM-Solver++, multistep (Lu et al. 2022, arXiv 2206.00927 and 2211.01095)."""

import dataclasses
from typing import Literal

from flax_sd.samplers.dpm_update import DPMOrders, multistep
from flax_sd.samplers.levels import Level
from flax_sd.samplers.recording import Recording
from flax_sd.samplers.sampler import Sampler
from flax_sd.samplers.sigmas import training_sigmas
from flax_sd.samplers.solver_steps import DPMConfig, SolverSpacing, training_steps, visited


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMMultistepConfig(DPMConfig, DPMOrders, SolverSpacing):
    """The fields of diffusers' `DPMSolverMultistepScheduler`."""

    algorithm_type: Literal[
        "dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver", "deis"
    ] = "dpmsolver++"
    use_lu_lambdas: bool = False
    rescale_betas_zero_snr: bool = False


def make_dpm_multistep(config: DPMMultistepConfig, num_inference_steps: int) -> Sampler:
    """Builds the sampler that diffusers' `DPMSolverMultistepScheduler` is with this config.

    Raises:
      UserError: the config or the number of steps is not one that the sampler supports.
    """
    algorithm = "dpmsolver++" if config.algorithm_type == "deis" else config.algorithm_type
    config.check(algorithm)
    levels = _levels(config, num_inference_steps)
    run = Recording(config.prediction_type, config.clip())
    orders = config.orders(len(levels) - 1)
    return run.sampler(multistep(run, levels, orders, algorithm, config.solver_type))


def _levels(config: DPMMultistepConfig, n: int) -> list[Level]:
    """Returns the level of each step, and where the last one ends."""
    sigmas = training_sigmas(config, zero_snr=config.rescale_betas_zero_snr)
    rule, last = config.spread, training_steps(sigmas, config.lambda_min_clipped)
    # Values of λ, evenly spaced as by Lu et al., are those of σ that use_exponential_sigmas has.
    by_lambda = config.use_lu_lambdas and rule != "karras"
    rounded = (by_lambda or rule == "karras") and config.beta_schedule != "squaredcos_cap_v2"
    rule = "exponential" if by_lambda else rule
    steps = visited(config, n, sigmas, last=last, rule=rule, rounded=rounded)
    return steps.levels(0 if config.final_sigmas_type == "zero" else sigmas[0])
