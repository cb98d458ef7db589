import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_sd import samplers
from tests.samplers import loops
from tests.samplers.loops import SD

CASES = [
    ("DDPMScheduler", {}),
    ("DDIMScheduler", {"eta": 0.5}),
    ("PNDMScheduler", {}),
    ("EulerDiscreteScheduler", {"s_churn": 2.0}),
    ("EulerAncestralDiscreteScheduler", {}),
]


@pytest.mark.parametrize(("class_name", "options"), CASES)
def test_scan_equals_eager_steps(class_name, options):
    sampler = samplers.from_config({"_class_name": class_name, **SD}, 5, **options)
    x, noise = loops.start(sampler)
    carry = sampler.init(x)
    for i, t in enumerate(sampler.timesteps):
        out = loops.network(jnp, sampler.scale_input(carry.x, i), t)
        carry = sampler.step(carry, out, i, None if noise is None else noise[i])
    np.testing.assert_allclose(carry.x, loops.our_loop(sampler, x, noise), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("class_name", "options"), CASES)
def test_step_is_jitted_once_for_all_steps(class_name, options):
    traces = []

    @jax.jit
    def step(sampler, carry, i, noise):
        traces.append(i)
        out = loops.network(jnp, sampler.scale_input(carry.x, i), sampler.timesteps[i])
        return sampler.step(carry, out, i, noise)

    sampler = samplers.from_config({"_class_name": class_name, **SD}, 5, **options)
    x, noise = loops.start(sampler)
    carry = sampler.init(x)
    for i in range(len(sampler.timesteps)):
        carry = step(sampler, carry, i, None if noise is None else noise[i])
    np.testing.assert_allclose(carry.x, loops.our_loop(sampler, x, noise), rtol=0, atol=2e-5)
    assert len(traces) == 1


@pytest.mark.parametrize(("class_name", "options"), CASES)
def test_steps_one_by_one_are_those_of_one_call(class_name, options):
    """The numbers of the steps are traced: it is one program, and gives the same bytes."""
    traces = []

    @jax.jit
    def run(sampler, carry, first, last, noise):
        traces.append(first)
        denoise = functools.partial(loops.network, jnp)
        return samplers.run_steps(sampler, denoise, carry, (first, last), noise)

    sampler = samplers.from_config({"_class_name": class_name, **SD}, 5, **options)
    x, noise = loops.start(sampler)
    m = len(sampler.timesteps)
    whole = single = sampler.init(x)
    whole = run(sampler, whole, 0, m, noise)
    for i in range(m):
        left = None if noise is None else np.roll(noise, -i, axis=0)
        single = run(sampler, single, i, i + 1, left)
    assert np.array_equal(whole.x, single.x) and len(traces) == 1


def test_other_values_reuse_the_compiled_loop():
    """Betas, spacing, eta, x and noise are arguments; so would be what `denoise` closes over."""
    traces = []

    @jax.jit
    def sample(sampler, scale, x, noise):
        traces.append(x)
        return loops.all_steps(sampler, lambda x, t: scale * x, x, noise)

    outs = []
    for config, eta in [({}, 0.2), (SD, 0.2), ({"timestep_spacing": "trailing"}, 0.9)]:
        sampler = samplers.from_config({"_class_name": "DDIMScheduler", **config}, 5, eta=eta)
        outs.append(sample(sampler, 0.5 + eta, *loops.start(sampler)))
    assert len(traces) == 1
    assert not np.allclose(outs[0], outs[1]) and not np.allclose(outs[0], outs[2])


def test_row_alone_equals_row_in_the_batch():
    sampler = samplers.from_config({"_class_name": "EulerAncestralDiscreteScheduler", **SD}, 4)
    x, noise = loops.start(sampler)
    whole, alone = loops.our_loop(sampler, x, noise), loops.our_loop(sampler, x[1:2], noise[:, 1:2])
    np.testing.assert_allclose(whole[1:2], alone, rtol=0, atol=1e-5)


def test_half_precision_output_gives_a_float32_sample():
    sampler = samplers.from_config(
        {"_class_name": "PNDMScheduler", **SD, "skip_prk_steps": True}, 4
    )
    x, _ = loops.start(sampler)

    def denoise(x, t):
        return functools.partial(loops.network, jnp)(x, t).astype(jnp.bfloat16)

    assert loops.all_steps(sampler, denoise, x).dtype == jnp.float32
