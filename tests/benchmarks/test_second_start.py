"""The figures of a second start."""

import subprocess
import sys

import pytest

from tests.benchmarks.conftest import ROOT, parse


@pytest.mark.slow
def test_the_second_start_is_shorter(config_file):
    command = [sys.executable, "-m", "benchmarks.compiled.second_start", "--small", config_file]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (row,) = parse(ended.stdout)
    assert 0 < float(row["second start, s"]) < float(row["first start, s"])
    assert float(row["ratio"]) < 1


def test_a_run_that_ends_before_its_first_step_says_why():
    command = [sys.executable, "-m", "benchmarks.compiled.second_start", "--small", "no.yaml"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 1 and "no.yaml" in ended.stderr
