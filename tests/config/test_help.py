"""The help of the commands: one screen of what people use, or every option."""

import pytest

from flax_sd.cli import COMMANDS, options_of
from flax_sd.config import Config
from flax_sd.config.commands import PlanOptions, TrainOptions
from flax_sd.config.help import page
from flax_sd.config.section import Common, marks, option_fields
from flax_sd.generation.options import SampleOptions

SCREEN = (50, 100)  # lines, columns


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


def help_of(kind, *, whole=False, **options):
    return page(kind, "x", Config.model_validate(options) if kind.CONFIG else None, whole=whole)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_people_use_is_on_one_screen(name):
    kind = options_of(name)
    lines = help_of(kind).splitlines()
    assert len(lines) <= SCREEN[0] and max(map(len, lines)) <= SCREEN[1]
    assert lines[0].startswith("usage: flax-sd x") and f"  flax-sd x {kind.EXAMPLES[0]}" in lines
    assert all(line == line.rstrip() for line in lines)


def test_a_command_shows_the_groups_that_it_is_about():
    common = marks(Config, Common)
    train, plan = help_of(TrainOptions), help_of(PlanOptions)
    assert all(f"--{name} " in train for name in common)
    assert not any(f"--{name} " in train for name in option_fields(Config).keys() - common.keys())
    assert "--device-memory TEXT" in plan and "--train.batch_size N" in plan
    assert "--data.path" not in plan and "--repeat" not in plan
    assert "--model PATH" in help_of(SampleOptions) and "--clip-skip" not in help_of(SampleOptions)


@pytest.mark.parametrize("kind", [TrainOptions, SampleOptions])
def test_the_whole_help_has_every_option(kind):
    shown = help_of(kind, whole=True)
    fields = option_fields(Config) if kind.CONFIG else {}
    assert all(f"--{name} " in f"{shown} " or f"--{name}\n" in shown for name in fields)
    own = [name.replace("_", "-") for name in kind.model_fields]
    assert all(f"--{name}" in shown for name in own)
    if kind.CONFIG:
        assert "--data.folders [PATH=REPEATS ...]" in shown
        assert "Values: adamw, adamw8bit" in " ".join(shown.split())


def test_the_values_of_the_config_are_shown():
    shown = help_of(TrainOptions, train={"steps": 77}, sample={"prompts": ["a", "b"]})
    assert "Optimizer steps of the run [77]" in shown and "[2 of them]" in shown
    assert "each time anew [off]" in shown


def test_a_narrow_terminal_wraps_between_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_of(SampleOptions).splitlines()
    beside = [line for line in lines if not line.startswith("  flax-sd")]
    assert max(map(len, beside)) <= 80
