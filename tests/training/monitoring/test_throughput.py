"""Rates over the last steps, by a clock that the tests turn."""

import pytest

from flax_sd.training.monitoring import throughput


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


def test_images_operations_and_utilisation(clock):
    measured = throughput.Pace(peak=12e12)
    for images in (3, 4, 5):  # the one that is noted is under way when the one before it ends
        measured.begins(throughput.StepWork(images, flops=images * 10**12))
    for _ in range(2):
        clock.now += 2.0
        measured.stepped()
    values = measured.values()
    assert values == {
        "images_per_second": 1.75,
        "wait_share": 0.0,
        "tflops": 1.75,
        "mfu": 1.75 / 12,
    }


def test_only_the_last_steps_count(clock):
    measured = throughput.Pace()
    for seconds in (1000.0, *[0.5] * throughput.STEPS_IN_MEAN):  # the first compiles
        measured.begins(throughput.StepWork(1, flops=0))
        clock.now += seconds
        measured.stepped()
    assert measured.values() == {"images_per_second": 2.0, "wait_share": 0.0, "tflops": 0.0}


def test_waiting_counts_only_while_the_device_is_idle(clock):
    measured = throughput.Pace()
    for idle, shown in ((False, 0.0), (True, 0.5)):
        asked = clock.now
        clock.now += 1.0
        measured.got_batch(asked, idle)
        measured.begins(throughput.StepWork(1, flops=0))
        measured.stepped()
        assert measured.values()["wait_share"] == shown


def test_what_is_done_between_steps_takes_no_time_from_them(clock):
    measured = throughput.Pace()
    for _ in range(2):
        measured.begins(throughput.StepWork(2, flops=0))
    clock.now += 1.0
    measured.stepped()
    with measured.paused():
        clock.now += 50.0
    clock.now += 1.0
    measured.stepped()
    assert measured.values()["images_per_second"] == 2.0


@pytest.mark.parametrize(
    ("kind", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("TPU v5 lite", "bfloat16", 197e12),
        ("TPU v5p", "bfloat16", 459e12),
        ("NVIDIA H100 80GB HBM3", "float32", None),
        ("cpu", "bfloat16", None),
    ],
)
def test_peaks(kind, dtype, peak):
    assert throughput.peak_flops(kind, dtype) == peak


def test_utilisation_and_waiting_are_said_where_known():
    pace = {"images_per_second": 2.0, "wait_share": 0.004}
    assert throughput.columns(pace, 0.5) == ["0.50 it/s", "2.00 images/s"]
    said = throughput.columns({**pace, "wait_share": 0.25}, 0.5)
    assert said[2:] == ["waits for images 25%"]
    assert throughput.details({"device_gb": 12.34, "host_gb": 3.0, "mfu": 0.451}) == [
        "device 12.3 GB",
        "host 3.0 GB",
        "MFU 45%",
    ]
    assert throughput.details({}) == []


def test_the_speed_of_steps_leaves_pauses_out(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(throughput.time, "monotonic", lambda: clock[0])
    pace = throughput.Pace()
    for _ in range(4):
        pace.begins(throughput.StepWork(8, 1))
        clock[0] += 0.5
        pace.stepped()
        with pace.paused():
            clock[0] += 7
    assert pace.steps_per_second() == 2.0
