"""What devices send is the gradient and the loss."""

import pytest


@pytest.mark.slow
def test_two_devices(rows_of):
    (row,) = rows_of("compiled.scaling", "--devices", "2")
    assert row["work"] == "LoRA step, sd1, 2 devices"
    assert "all-reduce" in row["collectives"]
    assert int(row["bytes of the gradient"].replace(",", "")) > 1000
    assert 0 < int(row["beside the gradient"]) <= 16  # scalars
    assert float(row["s a step"]) > 0


def test_one_device_sends_nothing():
    from benchmarks.compiled import scaling

    row = scaling.row("tiny", 1, {"traffic": {}, "gradient": 100})
    assert row["collectives"] == "none" and row["beside the gradient"] == 0
