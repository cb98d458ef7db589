"""What the pages name is there."""

import pathlib
import re

import pytest

from flax_sd.config import Config
from flax_sd.config_file import option_fields

DOCS = pathlib.Path(__file__).parents[1] / "docs"
ROWS = [line.split(" | ") for line in (DOCS / "coming_from.md").read_text().splitlines()]
NAMED = [name for row in ROWS if len(row) > 2 for name in re.findall("`([^`]+)`", row[1])]


@pytest.mark.parametrize("name", NAMED)
def test_the_options_that_stand_for_others_flags_exist(name):
    option, *values = name.split()
    if option.startswith(".") or "…" in option:  # a kind of file
        return
    fields = option_fields(Config)
    known = [key for key in fields if re.fullmatch(option.replace("*", ".*"), key)]
    assert known or option.endswith((".jsonl", ".csv"))
    for value in values:
        assert value in str(fields[option]) or value.replace(".", "").isdigit()
