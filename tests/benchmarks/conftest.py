import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def rows_of(folders, monkeypatch):
    """Runs a benchmark with --small on a tiny model: the rows of its tables, column -> cell."""

    def run(name, *arguments):
        command = [sys.executable, "-m", f"benchmarks.{name}", "--small"]
        command += ["--model", str(folders / "sd1"), *map(str, arguments)]
        environ = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # half the time to compile
        ended = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=environ
        )
        assert ended.returncode == 0, ended.stderr
        return parse(ended.stdout)

    return run


def parse(text):
    """The rows of all tables in a text."""
    rows, head = [], None
    for line in text.splitlines():
        if not line.startswith("|"):
            head = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if head is None:
            head = cells
        elif set(line) != {"|", "-"}:
            rows.append(dict(zip(head, cells, strict=True)))
    return rows
