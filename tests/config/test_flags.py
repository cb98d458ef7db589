"""U9: messages name the command that was typed; F11: its paths are paths."""

import pathlib
import sys

import pytest

from flax_sd.config import file, flags
from flax_sd.config.commands import (
    CompareOptions,
    ExportOptions,
    InspectOptions,
    PlanOptions,
    TrainOptions,
)
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
        ["--model", "~/m", "--vae", "~/v", "--lora", "~/a:0.5", "--lora", "~/b", "--embedding"]
        + ["~/e:<x>", "--prompts", "~/p.txt", "--out", "~/out"],
    )
    assert (drawn.model, drawn.vae) == ("/home/anna/m", "/home/anna/v")
    assert drawn.lora == ("/home/anna/a:0.5", "/home/anna/b")
    assert drawn.embedding == ("/home/anna/e:<x>",)
    assert (drawn.prompts, drawn.out) == (home / "p.txt", home / "out")
    written = flags.read_flags(
        ExportOptions, ["~/run", "--to", "kohya", "--out", "~/o", "--model", "~/m"]
    )
    assert (written.run, written.out, written.model) == (home / "run", home / "o", "/home/anna/m")
    looked = flags.read_flags(InspectOptions, ["~/f", "--model", "~/m"])
    assert (looked.path, looked.model) == (home / "f", "/home/anna/m")
    beside = flags.read_flags(CompareOptions, ["~/a", "~/b", "--out", "~/c.html"])
    assert beside.runs == (home / "a", home / "b") and beside.out == home / "c.html"


def problems(kind, *words):
    with pytest.raises(UserError) as caught:
        flags.read_flags(kind, words)
    return str(caught.value)


def test_a_value_that_cannot_be_is_one_sentence():
    empty = problems(SampleOptions, "--model", "m", "--out", "")
    assert empty == "the command line: --out: is empty: name a file or a folder, found ''"
    assert "FILE: is empty" in problems(InspectOptions, "")


def test_all_mistakes_are_named_at_once():
    said = problems(ExportOptions, "r", "s", "--to", "koya", "--otu", "x", "--bake", "0")
    assert said.splitlines() == [
        "the command line:",
        "  --otu: there is no such option; did you mean out?",
        "  s: one run is enough",
        "  --to: should be diffusers, kohya, peft, merged or single-file, found 'koya'; "
        "did you mean kohya?",
        "  --out is missing: The file or folder to write",
        "  --bake: Input should be greater than or equal to 1, found '0'",
    ]
    assert "RUN is missing: A run's folder" in problems(ExportOptions, "--to", "kohya")
    two = problems(SampleOptions, "--model", "m", "a cat")
    assert two == "the command line: --model takes one value, found 2: m a cat"


@pytest.mark.parametrize(
    "args", [["r", "--to", "peft", "--out=o"], ["--to", "peft", "r", "--out", "o"]]
)
def test_words_may_stand_before_flags_and_between(args):
    options = flags.read_flags(ExportOptions, args)
    assert (options.run, options.to, options.out) == (pathlib.Path("r"), "peft", pathlib.Path("o"))


def test_a_switch_takes_no_word_of_others():
    assert flags.read_flags(InspectOptions, ["--all", "f"]).all
    assert flags.read_flags(InspectOptions, ["f", "--all"]).path == pathlib.Path("f")
    assert not flags.read_flags(InspectOptions, ["--all", "false", "f"]).all
    assert not flags.read_flags(InspectOptions, ["--no-all", "f"]).all


def test_a_flag_that_is_there_twice_is_named(caplog):
    """F10's sibling: the last one holds."""
    words = ["--model", "m", "--prompt", "a", "--lora", "x", "--lora", "y", "--prompt=b"]
    options = flags.read_flags(SampleOptions, words)
    assert options.prompt == "b" and options.lora == ("x", "y")
    assert [record.getMessage() for record in caplog.records] == [
        "--prompt is given twice, as a and b: b is used"
    ]


def test_a_command_takes_its_own_flags_out_of_a_configs(caplog):
    """In any order, written either way."""
    own = ["--topology", "v5e:2x2", "--device_memory=24GB"]
    args = ["quickstart", "--lora.rank", "3", *own, "--mesh.data", "-1"]
    options, given = file.from_args(PlanOptions, args)
    assert options == PlanOptions(topology="v5e:2x2", device_memory="24GB")
    assert given.flags == {"lora.rank", "mesh.data"} and given.config.lora.rank == 3
    assert given.path.name == "quickstart.yaml" and not caplog.records
    with pytest.raises(UserError) as caught:
        file.from_args(PlanOptions, ["--topolgy", "a", "--lora.rnak", "3", "--device-memory"])
    for said in ("did you mean topology?", "did you mean lora.rank?", "device_memory takes one"):
        assert said in str(caught.value)


@pytest.mark.parametrize("args", [["--repeat", "c.yaml", "-v"], ["-v", "--repeat=c.yaml"]])
def test_the_options_of_a_training_command(args):
    options, given = file.from_args(TrainOptions, args)
    assert options == TrainOptions(repeat=pathlib.Path("c.yaml"), verbose=True)
    assert given.flags == frozenset() and not file.from_args(TrainOptions, [])[0].verbose
