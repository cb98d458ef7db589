"""Every field of every scheduler's config, in every spelling, against diffusers' own class (F26).

Fields are read from the classes, so that a new one cannot be forgotten.
"""

import inspect

import diffusers
import jax
import numpy as np
import pytest

from flax_sd import samplers
from flax_sd.errors import UserError
from tests import parity
from tests.samplers import loops

ABSENT = object()
STEPS = 5
OF_CLASS = {
    "PNDMScheduler": {"skip_prk_steps": True},
    "DDIMScheduler": {"clip_sample": False, "prediction_type": "v_prediction"},
}
NAMES = list(dict.fromkeys(entry.class_name for entry in samplers.SAMPLERS.values()))
SPELLINGS = {  # further ones
    "beta_schedule": ["scaled_linear", "squaredcos_cap_v2", "cosine"],
    "trained_betas": [[0.005] * 1000],
    "variance_type": ["fixed_large"],
    "timestep_spacing": ["trailing", "leading", "linspace"],
    "timestep_type": ["continuous"],
    "sigma_min": [0.1],
    "sigma_max": [10.0],
    "num_train_timesteps": [500, 1000.0],
    "steps_offset": [1],
}


def fields(name):
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ("self", "kwargs")}


def spellings(name, default):
    tried = [ABSENT, None, default, [default]]
    flags = [0, 1, not default] if isinstance(default, bool) else []
    return [*tried, *flags, *SPELLINGS.get(name, [])]


def theirs(name, raw):
    return loops.their_loop(name, raw, STEPS, {})[1][-1]


def sampler(name, raw):
    return samplers.from_config({"_class_name": name, **raw}, STEPS)


def equal(a, b):
    """Whether two samplers are the same program over the same tables."""
    leaves, others = jax.tree.leaves(a), jax.tree.leaves(b)
    alike = jax.tree.structure(a) == jax.tree.structure(b)
    return alike and all(map(np.array_equal, leaves, others))


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, f) for name in NAMES for f in fields(name) if f != "noise_sampler_seed"],
)
def test_a_field_means_what_it_means_to_diffusers(name, field):
    base = {key: v for key, v in loops.SD.items() if key in fields(name)} | OF_CLASS.get(name, {})
    usual = theirs(name, base)
    for value in spellings(field, fields(name)[field]):
        raw = {key: v for key, v in base.items() if key != field}
        raw |= {} if value is ABSENT else {field: value}
        try:
            reference = theirs(name, raw)
            reference = reference if reference.isfinite().all() else None
        except Exception:  # of any kind: it does not load, or does not step
            reference = None
        try:
            found = sampler(name, raw)
        except UserError as error:
            assert field in str(error), (value, error)
            changed = reference is None or not reference.equal(usual)
            assert changed, f"{value!r} changes nothing, and is refused: {error}"
            continue
        if reference is None:
            continue
        if equal(found, sampler(name, base)):
            assert reference.equal(usual), f"{value!r} makes another sampler"
        else:
            parity.assert_close(loops.our_loop(found, *loops.start(found)), reference, parity.LAYER)
