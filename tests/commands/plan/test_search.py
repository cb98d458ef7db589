"""The largest batch against memories that are known, and what else is proposed."""

import math

import pytest

from flax_sd.commands.plan.search import COMPILATIONS, MAX_BATCH, largest_batch
from flax_sd.config import Config
from flax_sd.training.monitoring.memory import advice


class Memory:
    """base + slope · batch bytes, infinite from `room` on; remembers what it was asked."""

    def __init__(self, base, slope, room=math.inf, bend=0.0):
        self.base, self.slope, self.room, self.bend = base, slope, room, bend
        self.asked = []

    def __call__(self, batch):
        self.asked.append(batch)
        size = self.base + self.slope * batch + self.bend * batch**2
        return size if size < self.room else math.inf


@pytest.mark.parametrize("start", [1, 2, 4, 37, 200])
@pytest.mark.parametrize(("limit", "largest"), [(1000, 9), (109, 0), (110, 1), (4000, 39)])
def test_a_straight_line_takes_three_batches(start, limit, largest):
    memory = Memory(100, 10 * 10, room=1e9)
    memory.base = 100 if limit >= 1000 else 10
    assert largest_batch(memory, limit, 1, start) == largest
    assert len(memory.asked) == len(set(memory.asked)) <= 3


def test_every_batch_is_a_multiple_of_the_unit():
    memory = Memory(100, 10)
    assert largest_batch(memory, 1000, 8, 16) == 88
    assert all(batch % 8 == 0 for batch in memory.asked)


def test_what_cannot_be_compiled_is_too_large():
    memory = Memory(100, 10, room=1500)
    assert largest_batch(memory, 1000, 4, 400) == 88
    assert largest_batch(Memory(100, 10, room=100), 1000, 4, 400) == 0


def test_the_result_was_seen_to_fit_where_the_line_bends():
    for bend in (0.05, 0.5, 5.0):
        memory = Memory(100, 10, bend=bend)
        largest = largest_batch(memory, 5000, 1, 1)
        assert largest in memory.asked and memory(largest) <= 5000
        assert len(memory.asked) - 1 <= COMPILATIONS


def test_memory_that_does_not_grow_ends_somewhere():
    assert largest_batch(Memory(100, 0), 1000, 2, 2) == 2 * MAX_BATCH


def config(**sections):
    return Config.model_validate({"compute_dtype": "float32", **sections})


def flags(*args):
    return [line.split(":")[0] for line in advice(*args)]


def test_all_that_is_not_set_is_proposed():
    small = config(train={"batch_size": 16})
    assert flags(small, 4, 8) == [
        "--train.batch_size 8",
        "--train.accumulate 2",
        "--train.remat blocks",
        "--data.center_crop true",
        "--compute_dtype bfloat16",
        "--model.base_dtype int8",
        "--mesh.fsdp 4",
        "--data.resolution 384",
    ]
    assert flags(small, 1, 0) == [
        "--train.remat blocks",
        "--data.center_crop true",
        "--compute_dtype bfloat16",
        "--model.base_dtype int8",
        "--data.resolution 384",
    ]


def test_what_is_set_is_not_proposed():
    done = config(
        train={"batch_size": 16, "remat": "blocks", "accumulate": 2},
        model={"base_dtype": "int8"},
        mesh={"fsdp": 2},
        compute_dtype="bfloat16",
        data={"resolution": 64, "center_crop": True},
    )
    assert flags(done, 2, 8) == ["--train.batch_size 8", "--train.accumulate 4"]
    streamed = config(data={"resolution": 64, "stream": True})
    assert "--data.center_crop true" not in flags(streamed, 1, 0)  # nothing is encoded once
    assert flags(config(train={"mode": "vae"}, data={"resolution": 64}), 1, 0) == [
        "--compute_dtype bfloat16"
    ]


def test_parts_divide_over_the_devices():
    assert "--train.accumulate 3" in flags(config(train={"batch_size": 12}), 4, 4)
    assert not any("accumulate" in flag for flag in flags(config(train={"batch_size": 7}), 2, 4))
