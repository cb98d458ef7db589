"""Every sampler, prediction type, spacing and rule for σ against diffusers, step by step."""

import copy
import dataclasses
import functools
import inspect
import itertools
import warnings

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flax_sd import samplers
from flax_sd.errors import UserError
from tests import parity
from tests.samplers import loops

FEW, MANY = 12, (5, 50)  # steps
TOLERANCE = 2e-5  # relative to the largest weight of a step
ROWS, MEMORY = 128, 10  # sizes of our tables, so that all are one program
CLASSES = list(dict.fromkeys(entry.class_name for entry in samplers.SAMPLERS.values()))
KINDS = ("epsilon", "v_prediction", "sample", "flow_prediction")
SPACINGS = ("leading", "trailing", "linspace")
RULES = ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas", "flow_sigmas")
# What a class cannot do, in diffusers either.
NO_KIND = {
    "PNDMScheduler": ("sample",),
    "EulerAncestralDiscreteScheduler": ("sample",),
    "KDPM2DiscreteScheduler": ("sample",),
    "KDPM2AncestralDiscreteScheduler": ("sample",),
    "DPMSolverSDEScheduler": ("sample",),
    "EDMEulerScheduler": ("sample",),
    "EDMDPMSolverMultistepScheduler": ("sample",),
}
NO_SPACING = {"DDIMInverseScheduler": ("linspace",)}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
FURTHER = {  # values of the fields that choose the method
    "solver_order": [{"solver_order": 1}, {"solver_order": 3}],
    "solver_type": [{"solver_type": "heun"}, {"solver_type": "heun", "solver_order": 3}],
    "algorithm_type": [
        {"algorithm_type": "dpmsolver", **SIGMA_MIN},
        {"algorithm_type": "dpmsolver", "solver_type": "heun", "solver_order": 3, **SIGMA_MIN},
        {"algorithm_type": "sde-dpmsolver", **SIGMA_MIN},
        {"algorithm_type": "sde-dpmsolver", "solver_type": "heun", **SIGMA_MIN},
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun"},
        {"algorithm_type": "noise_prediction"},
    ],
    "euler_at_final": [{"euler_at_final": True, **SIGMA_MIN}],
    "lower_order_final": [{"lower_order_final": False, **SIGMA_MIN}],
    "final_sigmas_type": [SIGMA_MIN],
    "predict_x0": [
        {"predict_x0": False, **SIGMA_MIN},
        {"solver_type": "bh1", "solver_order": 3, **SIGMA_MIN},
        {"solver_order": 4, "disable_corrector": [0, 2]},
    ],
    "predictor_order": [
        {"predictor_order": predictor, "corrector_order": corrector}
        for predictor, corrector in ((1, 1), (1, 2), (3, 3), (2, 4), (4, 3))
    ],
    "flow_shift": [{"use_flow_sigmas": True, "flow_shift": 3.0}],
    "shift": [{"shift": 3.0}],
    "stochastic_sampling": [
        {"stochastic_sampling": True},
        {"shift_terminal": 0.1},
        {"invert_sigmas": True},
    ],
    "sigma_schedule": [{"sigma_schedule": "exponential"}, {"sigma_data": 1.0, "rho": 5.0}],
    "interpolation_type": [
        {"interpolation_type": "log_linear"},
        {"interpolation_type": "log_linear", "use_karras_sigmas": True},
        {"timestep_type": "continuous"},
    ],
    "skip_prk_steps": [{"skip_prk_steps": True}],
    "set_alpha_to_one": [{"set_alpha_to_one": False}],
    "variance_type": [{"variance_type": "fixed_large"}],
}


def configs(class_name):
    """The class's configs: kinds and spacings by rules and methods, of SD's betas."""
    fields = inspect.signature(getattr(diffusers, class_name).__init__).parameters
    base = {"clip_sample": False, "steps_offset": 1, **loops.SD}
    base = {name: value for name, value in base.items() if name in fields}
    kinds = [{"prediction_type": kind} for kind in KINDS if kind not in NO_KIND.get(class_name, ())]
    spacings = [
        {"timestep_spacing": spacing}
        for spacing in SPACINGS
        if spacing not in NO_SPACING.get(class_name, ())
    ]
    rules = [{}, *({f"use_{rule}": True} for rule in RULES if f"use_{rule}" in fields)]
    methods = [config for name, several in FURTHER.items() if name in fields for config in several]
    kinds = kinds if "prediction_type" in fields else [{}]
    spacings = spacings if "timestep_spacing" in fields else [{}]
    for kind, spacing, method in itertools.product(kinds, spacings, rules + methods):
        flows = kind.get("prediction_type") == "flow_prediction"
        if not flows or method.get("use_flow_sigmas"):
            yield {**base, **kind, **spacing, **method}


def made(class_name, config):
    """diffusers' scheduler; None where its class has not that algorithm."""
    lacks = class_name == "EDMDPMSolverMultistepScheduler" and config.get("solver_order") == 3
    if lacks and config.get("algorithm_type") == "sde-dpmsolver++":
        return None  # it is made, and fails in its third step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return getattr(diffusers, class_name)(**config)
        except (NotImplementedError, ValueError, TypeError):
            return None


def unit(k, dtype=None):
    return torch.nn.functional.one_hot(torch.tensor(k), 1 + 2 * ROWS).reshape(1, -1, 1, 1).to(dtype)


def their_weights(fresh, n):
    """What each x is made of: the first x, each output of the network, and each noise.

    A sampler is linear, so that feeding its own step with unit vectors gives the weights. In
    float64, as its float32 loses digits where a method's weights cancel.
    """
    scheduler, single = copy.copy(fresh), torch.float32
    loops.set_timesteps(scheduler, n)
    with loops.in_double():
        for name, value in vars(scheduler).items():
            if isinstance(value, torch.Tensor) and value.dtype == single:
                setattr(scheduler, name, value.double())
        outputs, draws = itertools.count(1), itertools.count(1 + ROWS)
        steps = loops.steps_of(
            scheduler,
            unit(0, torch.float64),
            lambda *_: unit(next(outputs)),
            lambda *_, **__: unit(next(draws), torch.float64),
            {},
        )
        return scheduler.timesteps, np.stack([x.numpy().ravel() for x in steps])


@jax.jit
def our_weights(sampler):
    """The same of ours, a row for each row of the table."""
    units = jnp.eye(1 + 2 * ROWS)[:, None, None, None]
    drawn = jnp.cumsum(sampler.draws) - 1

    def step(carry, i):
        noise = units[1 + ROWS + drawn[i]] if sampler.stochastic else None
        carry = sampler.step(carry, units[1 + i], i, noise)
        return carry, carry.x.ravel()

    first = sampler.init(units[0] * sampler.init_noise_sigma)
    return jax.lax.scan(step, first, jnp.arange(ROWS))[1]


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_weights_of_every_step_are_those_of_diffusers(class_name):
    compared, spacings = 0, set()
    for config in configs(class_name):
        fresh = made(class_name, config)
        if fresh is None:
            continue
        spacings.add(config.get("timestep_spacing"))
        for n in (FEW, *(MANY if len(spacings) == 1 else ())):
            t, theirs = their_weights(fresh, n)
            try:
                sampler = samplers.from_config({"_class_name": class_name, **config}, n)
            except UserError as error:
                assert "not finite" in str(error) and not np.isfinite(theirs).all(), (config, n)
                continue
            np.testing.assert_allclose(sampler.timesteps, t, rtol=1e-6, atol=1e-4)
            ours = np.asarray(our_weights(sampler.padded(ROWS, MEMORY)))[: len(theirs)]
            difference = np.abs(ours - theirs).max(1) / np.abs(theirs).max(1)
            assert difference.max() <= TOLERANCE, (config, n, difference)
            compared += 1
    assert compared >= 3


def gentle(xp, x, t):
    """A network through which rounding does not grow over the steps."""
    return 0.4 * xp.sin(0.7 * x + 0.001 * t) + 0.1 * x


def assert_same_trajectory(config, n, **options):
    """Each step of whole loops from the same generators agrees, in float32 on both sides."""
    given = {name: value for name, value in config.items() if name != "_class_name"}
    scheduler = loops.reference(config["_class_name"], given, n)
    generators = [torch.Generator().manual_seed(seed) for seed in loops.SEEDS]
    shape = (1, loops.C, loops.H, loops.W)

    def draw(*_, **__):
        return torch.cat([torch.randn(shape, generator=g) for g in generators])

    sampler = samplers.from_config(config, n, **options)
    x, noise = loops.start(sampler)
    carry = sampler.init(x)
    for i, theirs in enumerate(loops.steps_of(scheduler, draw(), gentle, draw, options)):
        out = gentle(
            np, np.asarray(sampler.scale_input(carry.x, i)), np.asarray(sampler.timesteps[i])
        )
        carry = sampler.step(carry, out, i, None if noise is None else noise[i])
        parity.assert_close(carry.x, theirs, TOLERANCE)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_trajectories_are_those_of_diffusers(name):
    class_name = samplers.SAMPLERS[name].class_name
    fields = inspect.signature(getattr(diffusers, class_name).__init__).parameters
    base = {"clip_sample": False, "steps_offset": 1, **loops.SD}
    for kind, n in itertools.product(KINDS[:2], (7, 30)):
        config = {**base, "prediction_type": kind, **samplers.SAMPLERS[name].config}
        config = {key: value for key, value in config.items() if key in fields}
        assert_same_trajectory({"_class_name": class_name, **config}, n)


CHURN = {"s_churn": 6.0, "s_tmin": 0.1, "s_tmax": 50.0, "s_noise": 1.01}
OPTIONS = [  # of the steps
    ("EDMEulerScheduler", CHURN),
    ("FlowMatchHeunDiscreteScheduler", {**CHURN, "s_tmin": 0.3}),
    ("LMSDiscreteScheduler", {"order": 2}),
    ("DPMSolverSDEScheduler", {"s_noise": 0.7}),
    ("TCDScheduler", {"eta": 0.8}),
]


@pytest.mark.parametrize(("class_name", "options"), OPTIONS)
def test_options_of_the_steps_are_those_of_diffusers(class_name, options):
    fields = inspect.signature(getattr(diffusers, class_name).__init__).parameters
    config = {name: value for name, value in loops.SD.items() if name in fields}
    config = {"_class_name": class_name, **config}
    assert_same_trajectory(config, 12, **options)
    plain, other = (samplers.from_config(config, 12, **each) for each in ({}, options))
    assert plain.rows.state.shape != other.rows.state.shape or not np.allclose(
        plain.rows.state, other.rows.state
    )


CLIPS = {
    "thresholding": {
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.9,
        "sample_max_value": 1.5,
    },
    "clip_sample": {"clip_sample": True, "clip_sample_range": 0.8},
}


def reads(class_name, field):
    """Whether our class has the field; TCD's has those of clipping, and does not clip."""
    classes = {entry.class_name: entry.config_class for entry in samplers.SAMPLERS.values()}
    return field in {each.name for each in dataclasses.fields(classes[class_name])}


@pytest.mark.parametrize(
    ("class_name", "field"),
    [(name, field) for name in CLASSES for field in CLIPS if reads(name, field)],
)
def test_clipping_is_that_of_diffusers(class_name, field):
    fields = inspect.signature(getattr(diffusers, class_name).__init__).parameters
    config = {name: value for name, value in loops.SD.items() if name in fields}
    assert_same_trajectory({"_class_name": class_name, **config, **CLIPS[field]}, 12)


def test_samplers_of_one_size_are_one_program():
    """Deterministic ones, and those that draw noise: two programs in all."""
    traces = []

    @jax.jit
    def run(sampler, x, noise):
        traces.append(x)
        return samplers.run_steps(
            sampler,
            functools.partial(gentle, jnp),
            sampler.init(x),
            (0, sampler.draws.sum()),
            noise,
        ).x

    x = jnp.ones((1, 3, 2, 4))
    for name, n in itertools.product(samplers.SAMPLERS, (5, 20, 50)):
        config = samplers.by_name(name, {"_class_name": "PNDMScheduler", **loops.SD})
        sampler = samplers.from_config({**config, "clip_sample": False}, n).padded(ROWS, MEMORY)
        run(sampler, x, jnp.zeros((ROWS, *x.shape)) if sampler.stochastic else None)
    assert len(traces) == 2
