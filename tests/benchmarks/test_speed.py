"""The comparison with torch runs, and both sides come to one result; times are not tested."""

import pathlib
import subprocess
import sys

import pytest

BENCHMARK = pathlib.Path(__file__).parents[2] / "benchmarks" / "speed.py"


@pytest.mark.slow
def test_a_small_comparison():
    command = [sys.executable, str(BENCHMARK), "unet", "--small"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    head, _, row = ended.stdout.splitlines()
    cells = dict(zip(head.split("|"), row.split("|"), strict=True))
    assert cells[" work "] == " unet, batch 1, float32 "
    assert float(cells[" largest difference "]) <= 1e-4
