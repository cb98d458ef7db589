import numpy as np
import pytest

from flax_sd.reports import curves
from flax_sd.run_folder import history
from tests.made_runs import MIDDLES, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return history.read(make_run(tmp_path_factory.mktemp("runs") / "a"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return history.read(make_run(tmp_path_factory.mktemp("runs") / "b", 80, factor=2.0))


def lines_of(runs, title):
    (chart,) = [chart for chart in curves.charts(runs) if chart.title == title]
    return {line.label: line for line in chart.lines}


def test_a_smoothed_curve_is_the_mean_of_what_is_around():
    values = np.array([1.0, 2, 6, np.nan, 4, 5])
    expected = [(1 + 2 + 6) / 3, (1 + 2 + 6) / 3, (1 + 2 + 6 + 4) / 4]
    expected += [(2 + 6 + 4 + 5) / 4, (6 + 4 + 5) / 3, (4 + 5) / 2]
    np.testing.assert_allclose(curves.smoothed(values), expected)
    np.testing.assert_allclose(curves.smoothed(np.full(3, np.nan)), np.full(3, np.nan))
    np.testing.assert_allclose(curves.smoothed(np.array([7.0])), [7])


def test_smoothing_leaves_a_line_as_it_is_and_quiets_noise():
    line = np.linspace(0, 1, 400)
    noise = np.random.default_rng(0).normal(size=400)
    inside = slice(20, -20)
    np.testing.assert_allclose(curves.smoothed(line)[inside], line[inside], atol=1e-12)
    assert curves.smoothed(noise)[inside].std() < 0.3


def test_the_loss_is_dots_and_a_smoothed_line(run):
    lines = lines_of({"a": run}, "Training loss")
    raw = lines["each step logged"]
    assert raw.dots and raw.x[:2] == [2, 4]
    np.testing.assert_allclose(raw.y, np.exp(-np.array(raw.x) / 40))
    assert len(lines["smoothed"].x) == 30


def test_the_band_of_a_held_out_loss_is_that_of_its_change(run):
    line = lines_of({"a": run}, "Held-out loss")["val_loss"]
    assert line.x == [0, 20, 40, 60]
    low, high = line.band
    assert low[0] == high[0] == line.y[0]  # so that a run measured twice has a band to see
    np.testing.assert_allclose(np.subtract(high[1:], line.y[1:]), 0.01)
    np.testing.assert_allclose(np.subtract(line.y[1:], low[1:]), 0.01)


def test_a_run_that_measured_without_bands_has_its_held_out_losses_all_the_same(run):
    rows = [{"step": 0, "val_loss": 0.5}, {"step": 5, "loss": 1.0}, {"step": 9, "val_loss": 0.4}]
    line = curves.held_out(run._replace(validation=[], metrics=rows), "val_loss")
    assert (line.x, line.y, line.band) == ([0, 9], [0.5, 0.4], None)
    assert curves.held_out(run, "base_loss") is None


def test_each_measured_step_has_a_curve_over_the_timesteps(run):
    lines = lines_of({"a": run}, "Held-out loss by timestep")
    assert list(lines) == ["step 0", "step 20", "step 40", "step 60"]
    assert lines["step 0"].x == MIDDLES
    np.testing.assert_allclose(lines["step 0"].y, [1.8, 1.2, 0.6])
    assert lines["step 0"].strength < lines["step 60"].strength == 1


def test_several_runs_lie_over_one_another(run, other):
    for title in ("Training loss", "Held-out loss", "Held-out loss by timestep", "Gradient norm"):
        lines = lines_of({"one": run, "two": other}, title)
        assert list(lines) == ["one", "two"]
        assert lines["one"].colour != lines["two"].colour
    memory = lines_of({"one": run, "two": other}, "Memory, GB")
    assert list(memory) == ["one", "two"] and memory["two"].x[-1] == 80


def test_a_long_run_is_thinned_to_the_end():
    steps, values = curves.thinned(range(100_000), list(range(100_000)))
    assert len(steps) == curves.POINTS and (steps[0], steps[-1]) == (0, 99_999)
    assert steps == values
    assert curves.thinned([1, 2], [3, None]) == ([1, 2], [3, None])
