"""The figures of compiling: another number in the config is no other program."""

import pytest


@pytest.mark.slow
def test_a_sweep_of_numbers_is_one_program(rows_of):
    (row,) = rows_of("compiled.compile_time")
    assert row["work"].startswith("quickstart.yaml, ")
    assert row["programs"] == "1"
    assert 0 < float(row["compiling, CPU s"]) and 1000 < float(
        row["lines of StableHLO"].replace(",", "")
    )
