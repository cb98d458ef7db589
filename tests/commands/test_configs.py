"""flax-sd configs: the recipes that come with the package."""

import pathlib

import pytest

from flax_sd import cli
from flax_sd.commands.configs import purpose

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.yaml"))


def test_every_config_is_listed_with_its_first_sentence(capsys):
    assert cli.configs([]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for path in CONFIGS:
        assert f"{path.stem} {purpose(path.read_text())}" in shown


@pytest.mark.parametrize("name", ["sd15_lora", "sd15_lora.yaml"])
def test_a_config_is_printed_as_it_is(capsys, name):
    assert cli.configs([name]) == 0
    assert capsys.readouterr().out == next(p for p in CONFIGS if p.stem == "sd15_lora").read_text()


def test_a_wrong_name_is_told(capsys):
    assert cli.configs(["sd15_lra"]) == 2
    assert "there is no config sd15_lra in the package; did you mean sd15_lora?" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_its_purpose_first(path):
    text = purpose(path.read_text())
    assert text.endswith(".") and len(text) <= 200 and "python train.py configs" not in text
