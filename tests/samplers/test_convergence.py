"""An independent oracle: the probability-flow ODE of Gaussian data, solved by diffrax.

Where the data are N(m, s² I) the best network is known, and the ODE is smooth: with x = x_0 + σ ε
the noise in x is σ (x - m) / (s² + σ²), and that is dx/dσ too. Each method has to come nearer to
the solution with more steps, as fast as its order says.
"""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sd import samplers
from flax_sd.diffusion.schedule import alphas_cumprod
from flax_sd.diffusion.scheduler_config import BetaConfig
from tests.samplers.loops import SD

MEAN, DEVIATION = 0.3, 0.5
STARTS = np.linspace(-2, 2, 8).reshape(1, 2, 1, 4)  # the first x, in units of its deviation
ALPHAS = alphas_cumprod(BetaConfig(**SD)).astype(np.float64)
SIGMAS = np.sqrt((1 - ALPHAS) / ALPHAS)
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}


def slope(sigma, x):
    return sigma * (x - MEAN) / (DEVIATION**2 + sigma**2)


def solution(x, start, end):
    """x at another σ, along the ODE."""
    with jax.enable_x64(True):
        solved = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda sigma, x, _: slope(sigma, x)),
            diffrax.Dopri8(),
            float(start),
            float(end),
            None,
            jnp.asarray(x, jnp.float64),
            stepsize_controller=diffrax.PIDController(rtol=1e-9, atol=1e-9),
        )
        return np.asarray(solved.ys)[-1]


def error(class_name, config, n):
    """The largest difference from the ODE's solution at the level of the last step.

    The last step itself goes to σ = 0 or nowhere, and is of the first order in every method.
    """
    sampler = samplers.from_config({"_class_name": class_name, **SD, **config}, n)
    scales = np.asarray(sampler.rows.scale, np.float64)
    preserving = (scales == 1).all()  # the variance: x is divided by √(1 + σ²)
    sigmas = np.sqrt(np.maximum(scales**-2 - 1, 0))
    if preserving and "use_exponential_sigmas" in config:
        sigmas = np.geomspace(SIGMAS[-1], SIGMAS[0], n)
    elif preserving:
        sigmas = SIGMAS[np.asarray(sampler.timesteps)]
    size = np.sqrt(1 + sigmas**2) if preserving else np.ones(len(sigmas))
    first = STARTS * np.sqrt(sigmas[0] ** 2 + DEVIATION**2)
    carry = sampler.init(first / size[0])
    for i in range(len(sigmas) - 1):
        x = np.asarray(carry.x, np.float64) * size[i]
        carry = sampler.step(carry, slope(sigmas[i], x), i)
    found = np.asarray(carry.x, np.float64) * size[-1]
    return np.abs(found - solution(first, sigmas[0], sigmas[-1])).max()


LEADING = {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "leading"}
EVEN = {"use_exponential_sigmas": True}  # steps of one size in λ
END = {"final_sigmas_type": "sigma_min", **EVEN}
METHODS = [  # the class, its config, the order that it shows
    ("DDIMScheduler", LEADING, 1),
    ("PNDMScheduler", {"skip_prk_steps": True, **LEADING}, 1),
    ("EulerDiscreteScheduler", EVEN, 1),
    ("HeunDiscreteScheduler", EVEN, 2),
    ("KDPM2DiscreteScheduler", EVEN, 2),
    ("LMSDiscreteScheduler", EVEN, 3),
    ("DPMSolverMultistepScheduler", {"solver_order": 1, **END}, 1),
    ("DPMSolverMultistepScheduler", {"solver_order": 2, **END}, 2),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, **END}, 2),  # D1 and D2 are diffusers'
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", **END}, 2),
    ("DPMSolverSinglestepScheduler", {"solver_order": 2, **END}, 2),
    ("DPMSolverSinglestepScheduler", {"solver_order": 3, "solver_type": "heun", **END}, 3),
    ("UniPCMultistepScheduler", {"solver_order": 1, **END}, 2),
    ("UniPCMultistepScheduler", {"solver_order": 2, **END}, 3),
    ("UniPCMultistepScheduler", {"solver_order": 3, **END}, 3),
    ("DEISMultistepScheduler", {"solver_order": 1, **EVEN}, 1),
    ("DEISMultistepScheduler", {"solver_order": 2, **EVEN}, 2),
    ("DEISMultistepScheduler", {"solver_order": 3, **EVEN}, 3),
]


@pytest.mark.parametrize(("class_name", "config", "order"), METHODS)
def test_a_method_shows_its_order(class_name, config, order):
    """When the steps are halved, where rounding is small."""
    few, many = (20, 40) if "timestep_spacing" in config else (25, 49)
    coarse, fine = (error(class_name, config, n) for n in (few, many))
    shown = np.log2(coarse / fine)
    assert shown > order - 0.35 and fine < 0.1, (coarse, fine, shown)
