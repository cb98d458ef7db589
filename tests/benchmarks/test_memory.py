"""Recomputation takes less memory and more operations; the batches follow the lines."""

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


def test_batches_lie_between_those_that_were_compiled(modules):
    import memory

    sizes = {4: 5.0, 1: 1.0, 2: 4.0}
    rooms = {0.9: 0, 1.0: 1, 3.9: 1, 4.6: 3, 5.0: 4, 7.1: 8}
    assert {room: memory.largest(sizes, room) for room in rooms} == rooms
