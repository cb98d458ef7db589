"""Cold, warm and torch's starts run to the first step."""

import pytest


@pytest.mark.slow
def test_three_starts(rows_of):
    cold, warm, torch = rows_of("against_torch.start")
    assert [row["work"].split()[-1] for row in (cold, warm, torch)] == ["cold", "warm", "torch"]
    for row in (cold, warm, torch):
        assert 0 < float(row["from the file on, s"]) < float(row["whole process, s"])
        assert float(row["peak, GiB"]) > 0
    for row in (cold, warm):
        assert float(row["tracing and lowering, s"]) > 0 and float(row["ratio of time"]) > 0
    assert torch["compiling, s"] == torch["ratio of time"] == ""
