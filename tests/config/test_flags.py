"""U9: messages name the command that was typed; F11: its paths are paths."""

import pathlib
import sys

import pytest

from flax_sd.commands.compare import CompareOptions
from flax_sd.commands.export.command import ExportOptions
from flax_sd.commands.inspect.command import InspectOptions
from flax_sd.commands.plan.command import PlanOptions
from flax_sd.config import flags
from flax_sd.errors import UserError
from flax_sd.generation.options import SampleOptions


@pytest.mark.parametrize(
    ("started", "name", "typed"),
    [
        ("train.py", "train", "python train.py"),
        ("train.py", "sample", "python sample.py"),
        ("../my code/sample.py", "train", "python '../my code/train.py'"),
        ("train.py", "plan", "flax-sd plan"),
        ("/usr/bin/flax-sd", "train", "flax-sd train"),
        ("/usr/bin/flax-sd", "sample", "flax-sd sample"),
        ("", "train", "flax-sd train"),
    ],
)
def test_a_command_is_named_as_it_was_typed(monkeypatch, started, name, typed):
    monkeypatch.setattr(sys, "argv", [started])
    assert flags.typed(name) == typed


def test_every_path_of_the_commands_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    home = pathlib.Path("/home/anna")
    drawn = flags.read_flags(
        SampleOptions,
        "sample",
        ["--model", "~/m", "--vae", "~/v", "--lora", "~/a:0.5", "--lora", "~/b", "--embedding"]
        + ["~/e:<x>", "--prompts", "~/p.txt", "--out", "~/out"],
    )
    assert (drawn.model, drawn.vae) == ("/home/anna/m", "/home/anna/v")
    assert drawn.lora == ("/home/anna/a:0.5", "/home/anna/b")
    assert drawn.embedding == ("/home/anna/e:<x>",)
    assert (drawn.prompts, drawn.out) == (home / "p.txt", home / "out")
    written = flags.read_flags(
        ExportOptions, "export", ["~/run", "--to", "kohya", "--out", "~/o", "--model", "~/m"]
    )
    assert (written.run, written.out, written.model) == (home / "run", home / "o", "/home/anna/m")
    looked = flags.read_flags(InspectOptions, "inspect", ["~/f", "--model", "~/m"])
    assert (looked.path, looked.model) == (home / "f", "/home/anna/m")
    beside = flags.read_flags(CompareOptions, "compare", ["~/a", "~/b", "--out", "~/c.html"])
    assert beside.runs == (home / "a", home / "b") and beside.out == home / "c.html"


def test_a_value_that_cannot_be_is_one_sentence():
    with pytest.raises(UserError, match="^--out is empty: name a file or a folder$"):
        flags.read_flags(SampleOptions, "sample", ["--model", "m", "--out", ""])
    with pytest.raises(UserError, match="--path is empty"):
        flags.read_flags(InspectOptions, "inspect", [""])


def test_the_help_offers_what_there_is(capsys):
    """U6."""
    with pytest.raises(SystemExit):
        flags.read_flags(ExportOptions, "export", ["--help"])
    shown = capsys.readouterr().out
    assert "single-file" not in shown and "{diffusers,kohya,peft,merged}" in shown


def test_a_flag_that_is_there_twice_is_named(caplog):
    """F10's sibling: tyro takes the last one."""
    words = ["--model", "m", "--prompt", "a", "--lora", "x", "--lora", "y", "--prompt=b"]
    options = flags.read_flags(SampleOptions, "sample", words)
    assert options.prompt == "b" and options.lora == ("x", "y")
    assert [record.getMessage() for record in caplog.records] == [
        "--prompt is given twice: the last one is used"
    ]


def test_a_command_takes_its_own_flags_out_of_a_configs(caplog):
    """In any order, written either way; --help, and what comes twice, is the config's to read."""
    own = ["--topology", "v5e:2x2", "--device_memory=24GB"]
    others = ["c.yaml", "--data.folders", "a", "--data.folders", "b_b", "--mesh.data", "-1", "-h"]
    options, rest = flags.take_flags(PlanOptions, "plan", [*others[:3], *own, *others[3:]])
    assert options == PlanOptions(topology="v5e:2x2", device_memory="24GB")
    assert rest == others and not caplog.records
    assert flags.take_flags(PlanOptions, "plan", ["--topo", "a"])[1] == ["--topo", "a"]
    with pytest.raises(SystemExit) as ended:
        flags.take_flags(PlanOptions, "plan", ["--topology"])
    assert ended.value.code == 2
