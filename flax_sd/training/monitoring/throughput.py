"""How fast the last steps of a run went, and how long the devices had to wait for pictures."""

import collections
import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

OVER = 10  # steps
WORTH_SAYING = 0.01  # share of the time that the devices wait for pictures
# Peak FLOP/s of one device in bfloat16 or float16 with float32 sums, dense, from the makers' data
# sheets, by a part of `device_kind`; the first that fits counts.
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
    """Peak FLOP/s of a device in that dtype; None where there is no such figure (CPUs, float32)."""
    if dtype == "float32":
        return None
    kind = device_kind.lower()
    return next((peak for name, peak in PEAKS.items() if name in kind), None)


class Work(NamedTuple):
    """What one step does."""

    pictures: int  # shown; what fills a batch up does not count
    flops: int


class Mark(NamedTuple):
    """Where the run stood at the end of a step."""

    time: float  # seconds
    waited: float  # seconds in all
    pictures: int  # in all
    flops: int  # in all


class Pace:
    """Means over the last steps.

    Args:
      peak: FLOP/s of all devices together at their best; None if unknown.
    """

    def __init__(self, peak: float | None = None):
        self._peak, self._waited = peak, 0.0
        self._under_way: collections.deque[Work] = collections.deque()
        start = Mark(time.monotonic(), 0.0, 0, 0)
        self._marks = collections.deque([start], maxlen=OVER + 1)

    def got_batch(self, asked: float, idle: bool) -> None:
        """Notes that a batch is there that was asked for at `asked` (monotonic seconds).

        Args:
          idle: the devices have run out of work; the time since the question then counts as waited
            for, which is the most it can be.
        """
        if idle:
            self._waited += time.monotonic() - asked

    def begins(self, work: Work) -> None:
        """Notes what the next step will do."""
        self._under_way.append(work)

    def stepped(self) -> None:
        """Notes that the earliest step under way is done."""
        done, last = self._under_way.popleft(), self._marks[-1]
        pictures, flops = last.pictures + done.pictures, last.flops + done.flops
        self._marks.append(Mark(time.monotonic(), self._waited, pictures, flops))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside takes no time from the steps."""
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        shifted = [mark._replace(time=mark.time + took) for mark in self._marks]
        self._marks = collections.deque(shifted, maxlen=OVER + 1)

    def values(self) -> dict[str, float]:
        """images_per_second; wait_share (0 to 1); tflops, 10¹² operations a second; mfu (0 to 1).

        The last is there where the peak is known.
        """
        start, end = self._marks[0], self._marks[-1]
        seconds = max(end.time - start.time, 1e-9)
        values = {
            "images_per_second": (end.pictures - start.pictures) / seconds,
            "wait_share": min((end.waited - start.waited) / seconds, 1.0),
            "tflops": (end.flops - start.flops) / seconds / 1e12,
        }
        if self._peak is not None:
            values["mfu"] = values["tflops"] * 1e12 / self._peak
        return values


def columns(pace: Mapping[str, float]) -> list[str]:
    """Returns what the progress line says of a pace's values."""
    said = [f"{pace['images_per_second']:.2f} images/s"]
    if "mfu" in pace:
        said.append(f"MFU {pace['mfu']:.0%}")
    if pace["wait_share"] >= WORTH_SAYING:
        said.append(f"waits for pictures {pace['wait_share']:.0%}")
    return said
