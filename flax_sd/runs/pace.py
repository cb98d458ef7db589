"""How fast the last steps of a run went, and how long the devices had to wait for pictures."""

import collections
import contextlib
import time
from collections.abc import Iterator

OVER = 10  # steps
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


class Pace:
    """Means over the last steps.

    Args:
      batch_size: pictures a step.
      flops: operations a step; None if they were not counted.
      peak: FLOP/s of all devices together at their best; None if unknown.
    """

    def __init__(self, batch_size: int, flops: int | None = None, peak: float | None = None):
        self._batch_size, self._flops, self._peak = batch_size, flops, peak
        self._waited = 0.0
        self._marks = collections.deque([(time.monotonic(), 0.0)], maxlen=OVER + 1)

    def got_batch(self, asked: float, idle: bool) -> None:
        """Notes that a batch is there that was asked for at `asked` (monotonic seconds).

        Args:
          idle: the devices have run out of work; the time since the question then counts as waited
            for, which is the most it can be.
        """
        if idle:
            self._waited += time.monotonic() - asked

    def stepped(self) -> None:
        """Notes that a step is done."""
        self._marks.append((time.monotonic(), self._waited))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside takes no time from the steps."""
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        shifted = [(mark + took, waited) for mark, waited in self._marks]
        self._marks = collections.deque(shifted, maxlen=OVER + 1)

    def values(self) -> dict[str, float]:
        """images_per_second; wait_share (0 to 1); tflops, 10¹² operations a second; mfu (0 to 1).

        The last two are there where the operations were counted and the peak is known.
        """
        (start, waited), (end, waited_now) = self._marks[0], self._marks[-1]
        seconds, steps = max(end - start, 1e-9), len(self._marks) - 1
        values = {
            "images_per_second": self._batch_size * steps / seconds,
            "wait_share": min((waited_now - waited) / seconds, 1.0),
        }
        if self._flops is not None:
            values["tflops"] = self._flops * steps / seconds / 1e12
            if self._peak is not None:
                values["mfu"] = values["tflops"] * 1e12 / self._peak
        return values
