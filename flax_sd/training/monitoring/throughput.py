"""The speed of the last steps of a run, and the time that the devices wait for images."""

import collections
import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

STEPS_IN_MEAN = 10
MIN_SHOWN_WAIT = 0.01  # share of the time that the devices wait for images
# Peak FLOP/s of one device in dense bfloat16 or float16 with float32 sums, from the makers' data
# sheets, by a part of `device_kind`; the first match counts.
PEAKS = {
    "h200": 989e12,
    "h100 pcie": 756e12,
    "h100": 989e12,
    "a100": 312e12,
    "l40s": 362e12,
    "l4": 121e12,
    "t4": 65e12,
    "v100": 125e12,
    "rtx 4090": 165e12,
    "rtx 3090": 71e12,
    "tpu v6": 918e12,
    "tpu v5p": 459e12,
    "tpu v5": 197e12,
    "tpu v4": 275e12,
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Returns the peak FLOP/s of a device in a dtype; None if unknown (CPUs, float32)."""
    if dtype == "float32":
        return None
    kind = device_kind.lower()
    return next((peak for name, peak in PEAKS.items() if name in kind), None)


class StepWork(NamedTuple):
    """The work of one step."""

    images: int  # without padding
    flops: int


class Mark(NamedTuple):
    """Totals of the run at the end of a step."""

    time: float  # seconds
    waited: float  # seconds
    images: int
    flops: int


class Pace:
    """Mean speed over the last steps.

    Args:
      peak: peak FLOP/s of all devices together; None if unknown.
    """

    def __init__(self, peak: float | None = None):
        self._peak, self._waited = peak, 0.0
        self._under_way: collections.deque[StepWork] = collections.deque()
        start = Mark(time.monotonic(), 0.0, 0, 0)
        self._marks = collections.deque([start], maxlen=STEPS_IN_MEAN + 1)

    def got_batch(self, asked: float, idle: bool) -> None:
        """Notes that the batch has arrived that was requested at `asked` (monotonic seconds).

        Args:
          idle: the devices have no work left; the time since the request then counts as waiting,
            which is an upper bound.
        """
        if idle:
            self._waited += time.monotonic() - asked

    def begins(self, work: StepWork) -> None:
        """Notes the work of the next step."""
        self._under_way.append(work)

    def stepped(self) -> None:
        """Notes that the oldest unfinished step is done."""
        done, last = self._under_way.popleft(), self._marks[-1]
        images, flops = last.images + done.images, last.flops + done.flops
        self._marks.append(Mark(time.monotonic(), self._waited, images, flops))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time inside the block from the speed."""
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        shifted = [mark._replace(time=mark.time + took) for mark in self._marks]
        self._marks = collections.deque(shifted, maxlen=STEPS_IN_MEAN + 1)

    def steps_per_second(self) -> float:
        """Returns the number of steps a second."""
        start, end = self._marks[0], self._marks[-1]
        return (len(self._marks) - 1) / max(end.time - start.time, 1e-9)

    def values(self) -> dict[str, float]:
        """Returns images_per_second, wait_share (0 to 1), tflops (10¹²/s) and mfu (0 to 1).

        There is no mfu if the peak is unknown.
        """
        start, end = self._marks[0], self._marks[-1]
        seconds = max(end.time - start.time, 1e-9)
        values = {
            "images_per_second": (end.images - start.images) / seconds,
            "wait_share": min((end.waited - start.waited) / seconds, 1.0),
            "tflops": (end.flops - start.flops) / seconds / 1e12,
        }
        if self._peak is not None:
            values["mfu"] = values["tflops"] * 1e12 / self._peak
        return values


def columns(pace: Mapping[str, float], steps_per_second: float) -> list[str]:
    """Returns the columns of the progress line."""
    said = [f"{steps_per_second:.2f} it/s", f"{pace['images_per_second']:.2f} images/s"]
    if pace["wait_share"] >= MIN_SHOWN_WAIT:
        said.append(f"waits for images {pace['wait_share']:.0%}")
    return said


def details(values: Mapping[str, float]) -> list[str]:
    """Returns memory and utilisation, where they are known, for the line below."""
    named = {"device_gb": "device", "host_gb": "host"}
    said = [f"{name} {values[key]:.1f} GB" for key, name in named.items() if key in values]
    return said + ([f"MFU {values['mfu']:.0%}"] if "mfu" in values else [])
