"""What the pages name is there, and the page for those who come from other trainers is whole."""

import functools
import importlib
import pathlib
import re

import pytest
import yaml

from flax_sd.config import Config
from flax_sd.config.coming_from import page, rows
from flax_sd.config.commands import ExportOptions, PlanOptions, TrainOptions
from flax_sd.config.section import option_fields
from flax_sd.generation.options import SampleOptions

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
OTHERS = yaml.safe_load((ROOT / "tests" / "flags_of_others.yaml").read_text(encoding="utf-8"))
FIELDS = option_fields(Config)
FLAGS = {  # of the commands that the page writes down
    "flax-sd export": set(ExportOptions.model_fields),
    "flax-sd check-data": set(FIELDS),
    "flax-sd plan": FIELDS.keys() | PlanOptions.model_fields,
    "sample.py": set(SampleOptions.model_fields),
    "train.py": FIELDS.keys() | TrainOptions.model_fields,
}


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


ROWS = rows()


def theirs(trainer: str) -> list[str]:
    """What stands in the left column, as it is written."""
    return [name for row in ROWS if row.trainer == trainer for name in quoted(row.theirs)]


def test_the_page_is_made_from_the_table():
    """Else: python scripts/build_coming_from.py."""
    assert page() == PAGE


@pytest.mark.parametrize("trainer", OTHERS)
def test_every_option_of_the_other_trainer_is_told(trainer):
    """D: an equal, or why there is none."""
    told = {word for name in theirs(trainer) for word in re.findall(r"\w+", name)}
    wanted = {name for names in OTHERS[trainer].values() for name in names.split()}
    assert not wanted - told
    # The left column has no flag that the other does not have; base_precision is of none of these.
    flags = {flag for name in theirs(trainer) for flag in re.findall(r"--(\w+)", name)}
    assert not flags - wanted - {"base_precision"}


def test_every_row_has_an_equal_or_a_reason():
    assert [row for row in ROWS if not (row.ours or row.differs)] == []


@pytest.mark.parametrize("name", sorted({name for row in ROWS for name in quoted(row.ours)}))
def test_the_options_that_stand_for_others_flags_exist(name):
    option, *values = name.split()
    if option.startswith("--"):
        assert option[2:].replace("-", "_") in SampleOptions.model_fields
        return
    if option.startswith(".") or option.endswith((".jsonl", ".csv")):  # a kind of file
        return
    assert option in FIELDS
    for value in values:
        assert value in str(FIELDS[option]) or value.replace(".", "").isdigit()


def test_options_and_flags_that_the_page_speaks_of_exist():
    """D: none is stale."""
    sections = {name.partition(".")[0] for name in FIELDS if "." in name}
    unknown = []
    for name in quoted(PAGE):
        command = next((command for command in FLAGS if name.startswith(command)), None)
        first = name.split()[0].rstrip(":")
        if command is not None:
            flags = [flag.replace("-", "_") for flag in re.findall(r"--([\w.-]+)", name)]
            unknown += [f"{command} --{flag}" for flag in flags if flag not in FLAGS[command]]
        elif "." in first and first.partition(".")[0] in sections and first not in FIELDS:
            unknown.append(name)
    assert unknown == []


def test_every_config_has_its_row():
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert {path.stem for path in (ROOT / "configs").glob("*.yaml")} == set(
        re.findall(r"\(\.\./configs/(\w+)\.yaml\)", page)
    )


def test_the_functions_of_a_step_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"^\| \d+ \| `([\w/.]+)` `([\w.]+)` \|", page, re.M)
    assert len(named) == 20
    for file, name in named:
        module = importlib.import_module(f"flax_sd.training.{file[:-3].replace('/', '.')}")
        assert callable(functools.reduce(getattr, name.split("."), module)), name


def test_the_files_of_the_architecture_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "flax_sd"
    inside = [ROOT, package, *(path for path in package.rglob("*") if path.is_dir())]
    named = {name for name in re.findall(r"`([\w/]+\.py)`", page) if "NAME" not in name}
    assert len(named) > 40
    assert not [name for name in named if not any((folder / name).is_file() for folder in inside)]
