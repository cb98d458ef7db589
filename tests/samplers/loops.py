"""The same loop through diffusers' class and through ours, from the same generators."""

import contextlib
import functools
import math
import sys
import warnings
from unittest import mock

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from flax_sd import samplers
from tests import parity

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACINGS = ("leading", "trailing", "linspace")
SEEDS, H, W, C = (3, 2**40 + 7, 11), 6, 5, 4


def network(xp, x, t):
    """A smooth network of x and t."""
    return 0.8 * xp.sin(1.3 * x + 0.001 * t) + 0.1 * x


def reference(class_name, config, n, *, convert=False):
    """diffusers' scheduler after `set_timesteps`; `convert` goes through `from_config`.

    Its classes turn tensors into arrays in ways that NumPy 2 warns of.
    """
    cls = getattr(diffusers, class_name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array_", DeprecationWarning)
        scheduler = cls.from_config(config) if convert else cls(**config)
        set_timesteps(scheduler, n)
    return scheduler


def set_timesteps(scheduler, n):
    """Sets the steps, and says that they begin at the first, as repeated timesteps do not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array_", DeprecationWarning)
        scheduler.set_timesteps(n)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)


def their_loop(class_name, config, n, options):
    """diffusers' scheduler, and the x after each of its steps."""
    scheduler = reference(class_name, config, n)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]

    def draw(*_, **__):
        return torch.cat([torch.randn(1, C, H, W, generator=g) for g in generators])

    return scheduler, list(steps_of(scheduler, draw(), network, draw, options))


def steps_of(scheduler, x, denoise, draw, options):
    """Yields the x after each step of a scheduler of diffusers, which draws noise from `draw`."""
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    if isinstance(scheduler, diffusers.DPMSolverSDEScheduler):
        scheduler.noise_sampler = BrownianPath(draw)
    module = sys.modules[type(scheduler).__module__]
    with mock.patch.object(module, "randn_tensor", draw, create=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array_", DeprecationWarning)
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, SCALES) else x
            x = scheduler.step(denoise(torch, scaled, t).to(x.dtype), t, x, **options).prev_sample
            yield x


SCALES = "scale_model_input"  # which the schedulers of flow matching have not


class BrownianPath:
    """W over σ of one path, from independent draws for each stretch that is new.

    In place of diffusers' `BrownianTreeNoiseSampler`, which has a seed of its own. It is asked for
    the stretch to the middle of a step, and then for the whole of it.
    """

    def __init__(self, draw):
        self.draw, self.middle = draw, None

    def __call__(self, sigma, end):
        sigma, end = float(sigma), float(end)
        if self.middle is None:
            self.middle, self.first = end, self.draw() * math.sqrt(sigma - end)
            return self.first / math.sqrt(sigma - end)
        whole = self.first + self.draw() * math.sqrt(self.middle - end)
        self.middle = None
        return whole / math.sqrt(sigma - end)


@contextlib.contextmanager
def in_double():
    """diffusers' steps of the time in float64, where they say float32."""
    single = torch.float32
    torch.float32 = torch.float64
    try:
        yield
    finally:
        torch.float32 = single


def assert_one_exact_step(class_name, kind, tolerance=parity.LAYER):
    """One step from a terminal SNR of zero, σ = 4096, against diffusers' own in float64.

    In float32 its x of that size cancels but for the last bits, which are 1e-3.
    """
    config = {**SD, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    config["prediction_type"] = kind
    sampler = samplers.from_config({"_class_name": class_name, **config}, 1)
    x, noise = start(sampler)
    out = network(np, x / 4096, 999.0)
    ours = sampler.step(sampler.init(x), out, 0, None if noise is None else noise[0]).x

    def step(dtype):
        scheduler = reference(class_name, config, 1)
        scheduler.sigmas = scheduler.sigmas.to(dtype)
        own = parity.to_torch(x).to(dtype)
        scheduler.scale_model_input(own, scheduler.timesteps[0])
        generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
        given = parity.to_torch(out).to(dtype)
        return scheduler.step(
            given, scheduler.timesteps[0], own, generator=generators
        ).prev_sample.numpy()

    single = step(torch.float32)
    with in_double():
        double = step(torch.float64)
    double, single = (np.moveaxis(each, 1, -1) for each in (double, single))
    parity.assert_close(ours, double, tolerance)
    assert np.abs(np.asarray(ours) - single).max() <= np.abs(double - single).max() + 1e-5


@jax.jit
def our_loop(sampler, x, noise):
    return all_steps(sampler, functools.partial(network, jnp), x, noise)


def all_steps(sampler, denoise, x, noise=None):
    steps = 0, len(sampler.timesteps)
    return samplers.run_steps(sampler, denoise, sampler.init(x), steps, noise).x


def start(sampler):
    """The first x, and the noise of all steps."""
    x = samplers.initial_noise(SEEDS, H, W, C) * np.asarray(sampler.init_noise_sigma)
    return x, samplers.step_noise(SEEDS, np.asarray(sampler.draws), H, W, C)


def assert_same_loop(class_name, config, n, **options):
    """Whole loops agree, from the timesteps to the last x."""
    scheduler, (*_, theirs) = their_loop(class_name, config, n, options)
    sampler = samplers.from_config({"_class_name": class_name, **config}, n, **options)
    np.testing.assert_array_equal(sampler.timesteps, scheduler.timesteps)
    assert math.isclose(sampler.init_noise_sigma, scheduler.init_noise_sigma, rel_tol=1e-6)
    parity.assert_close(our_loop(sampler, *start(sampler)), theirs, parity.LAYER)


def oracle_sample():
    """The sample of diffusers' own scheduler tests, channels last: [4, 8, 8, 3]."""
    sample = np.arange(768, dtype=np.float32).reshape(3, 8, 8, 4) / 768
    return sample.transpose(3, 1, 2, 0)


def oracle_loop(class_name, *, scaled=False, **config):
    """Σ|x| after the ten steps of diffusers' `full_loop` tests.

    The tests of σ samplers hand the scaled sample to `step` (`scaled`).
    """
    config = {"_class_name": class_name, "beta_start": 0.0001, "beta_end": 0.02, **config}
    sampler = samplers.from_config(config, 10)
    carry = sampler.init(oracle_sample() * sampler.init_noise_sigma)
    for i, t in enumerate(sampler.timesteps):
        x = sampler.scale_input(carry.x, i)
        carry = carry._replace(x=x) if scaled else carry
        carry = sampler.step(carry, x * t / (t + 1), i, None)
    return float(jnp.abs(carry.x).sum())
