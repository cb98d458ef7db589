"""Recomputation takes less memory and more operations; the batches follow the line."""

import pytest


@pytest.mark.slow
def test_every_remat(rows_of):
    plain, blocks, full = rows_of("memory")
    assert plain["work"] == "sd1, float32, remat none, cpu"
    costs = [float(row["TFLOP a picture"]) for row in (plain, blocks, full)]
    assert costs == sorted(set(costs))
    beside = [float(row["GB beside, 2 a device"]) for row in (plain, blocks)]
    assert beside[1] < beside[0]


def test_batches_lie_on_the_line(modules):
    import memory

    row = memory.row("tiny", held=2.0, sizes={1: 1.5, 2: 2.0}, flops=1e12)
    assert [row[f"batch in {size} GB"] for size in memory.SIZES] == [4, 8, 15, 22, 37]
    large = memory.row("large", held=9.0, sizes={1: 1.5, 2: 2.0}, flops=1e12)
    assert large["batch in 8 GB"] == 0
