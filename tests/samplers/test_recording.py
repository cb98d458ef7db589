"""A method's forms become tables, and what it uses again gets a slot and no more."""

import numpy as np
import pytest

from flax_sd.errors import UserError
from flax_sd.samplers.clipping import Clip
from flax_sd.samplers.forms import Form, Value
from flax_sd.samplers.levels import Level
from flax_sd.samplers.recording import Recording

X, OUTPUT = Value(0, "x"), Value(0, "output")
LEVEL = Level(7, np.float64(0.8), np.float64(0.6))


def test_forms_are_sums():
    form = (Form.of(X) * 3 - Form.of(OUTPUT)) / 2 + np.float64(0.5) * Form.of(OUTPUT)
    assert form.weights == {X: 1.5}  # a value of weight 0 is left out


def test_a_method_that_remembers_nothing_has_no_slots():
    run = Recording("epsilon")
    x = run.x
    for t in (9, 4):
        at = run.predict(x, LEVEL._replace(t=t))
        x = at.x * 0.5 + at.output * 2
    sampler = run.sampler(x, 3.0)
    np.testing.assert_array_equal(sampler.rows.state[:, 0], [[0.5, 2, 0, 0]] * 2)
    assert sampler.remembers == 0 and not sampler.stochastic
    np.testing.assert_array_equal(sampler.timesteps, [9, 4])
    assert sampler.timesteps.dtype == np.int32 and sampler.init_noise_sigma == 3


def test_slots_are_used_again():
    """Each output is used by the next call alone: one slot is enough for all of them."""
    run = Recording("epsilon")
    x, before = run.x, Form({})
    for _ in range(5):
        at = run.predict(x, LEVEL)
        x, before = at.x + before, at.output
    sampler = run.sampler(x)
    assert sampler.remembers == 1
    xs, carry = [], sampler.init(np.zeros((1, 1, 1, 1)))
    for i in range(5):
        carry = sampler.step(carry, np.full((1, 1, 1, 1), 10.0**i), i)
        xs.append(float(carry.x[0, 0, 0, 0]))
    assert xs == [0, 1, 11, 111, 1111]


def test_a_kept_form_takes_one_slot_and_what_is_not_kept_one_for_each_value():
    def remembers(keeps):
        run = Recording("epsilon")
        first = run.predict(run.x, LEVEL)
        total = first.x + first.output
        if keeps:
            total = run.keep(total)
        return run.sampler(run.predict(first.x, LEVEL).x + total).remembers

    assert remembers(keeps=True) == 1 and remembers(keeps=False) == 2


def test_the_x_of_a_call_can_be_used_after_it():
    run = Recording("epsilon")
    start = run.predict(run.x, LEVEL)
    end = run.predict(start.x * 3, LEVEL)
    sampler = run.sampler(end.x + start.x)
    carry = sampler.init(np.ones((1, 1, 1, 1)))
    for i in range(2):
        carry = sampler.step(carry, np.zeros((1, 1, 1, 1)), i)
    assert float(carry.x[0, 0, 0, 0]) == 4


def test_a_clipped_x0_is_a_value_of_its_own():
    run = Recording("sample", Clip(largest=1.0))
    at = run.predict(run.x, LEVEL)
    sampler = run.sampler(at.x0 + at.epsilon)
    x, output = np.ones((1, 1, 1, 1)), np.full((1, 1, 1, 1), 5.0)
    found = sampler.step(sampler.init(x), output, 0).x
    assert np.allclose(found, 1 + (1 - 0.8 * 5) / 0.6)


def test_noise_is_drawn_where_the_method_asks():
    run = Recording("epsilon")
    x = run.predict(run.x, LEVEL).x
    x = run.predict(x, LEVEL).x + run.noise() * 2
    sampler = run.sampler(x)
    np.testing.assert_array_equal(sampler.draws, [False, True])
    assert sampler.stochastic and sampler.rows.state[1, 0, -1] == 2


def test_weights_that_are_not_finite_are_refused():
    run = Recording("epsilon")
    with np.errstate(divide="ignore"):
        x = run.predict(run.x, LEVEL).x / 0
    with pytest.raises(UserError, match="step 1 of 1 is not finite"):
        run.sampler(x)


def test_padded_tables_give_the_same_steps():
    run = Recording("epsilon")
    first = run.predict(run.x, LEVEL)
    second = run.predict(first.x + first.output, LEVEL._replace(t=3))
    sampler = run.sampler(second.output - first.output * 2, order=2)
    padded = sampler.padded(8, 4)
    assert padded.rows.state.shape == (8, 5, 8) and padded.timesteps.shape == (8,)
    generator = np.random.default_rng(0)
    x, *outputs = generator.normal(size=(3, 1, 2, 2, 4))
    carries = [each.init(x) for each in (sampler, padded)]
    for i, output in enumerate(outputs):
        carries = [
            each.step(carry, output, i)
            for each, carry in zip((sampler, padded), carries, strict=True)
        ]
    np.testing.assert_array_equal(carries[0].x, carries[1].x)
