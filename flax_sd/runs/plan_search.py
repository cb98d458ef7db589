"""The largest batch that fits, from as few compilations as will do; and what else would help."""

import math
from collections.abc import Callable, Mapping

from flax_sd.config import Config

COMPILATIONS = 4  # of the step, at most: a large one takes minutes
MOST = 128  # pictures a device and part; compiling for thousands takes many minutes


def largest_batch(needed: Callable[[int], float], limit: int, unit: int, start: int) -> int:
    """The largest batch found to fit, 0 if none does.

    Memory grows along a line with the batch, nearly: two batches give the line, and the batch where
    it crosses the limit is measured too. So the result is a batch that was seen to fit; one more
    might.

    Args:
      needed: bytes of a batch, infinite if it cannot even be compiled; asked 4 times at most.
      limit: bytes of a device.
      unit: what every batch is a multiple of.
      start: the first batch to ask for.
    """
    points = {start: needed(start)}
    while len(points) < COMPILATIONS:
        guess = _next(points, limit, unit)
        if guess in points or not guess:
            break
        on_a_line = len(_known(points)) > 1
        points[guess] = needed(guess)
        if on_a_line and points[guess] <= limit:
            break
    return max((batch for batch, size in points.items() if size <= limit), default=0)


def _next(points: Mapping[int, float], limit: int, unit: int) -> int:
    """The batch to ask for next, 0 if there is none."""
    fits = max((batch for batch, size in points.items() if size <= limit), default=0)
    too_many = min((batch for batch, size in points.items() if size > limit), default=None)
    most = unit * MOST if too_many is None else too_many - unit
    if len(known := _known(points)) < 2:
        return unit if unit not in points else min(2 * unit, most)
    (b0, size0), (b1, size1) = known[-2:]
    slope = (size1 - size0) / (b1 - b0)
    guess = b1 + (limit - size1) / slope if slope > 0 else most
    return max(fits, min(most, math.floor(guess / unit) * unit))


def _known(points: Mapping[int, float]) -> list[tuple[int, float]]:
    """The batches that could be compiled, in order."""
    return sorted((batch, size) for batch, size in points.items() if size < math.inf)


def advice(config: Config, devices: int, largest: int) -> list[str]:
    """Flags that would make a run smaller, among those that are not set already.

    Args:
      devices: of the mesh.
      largest: the largest batch that fits, 0 if none does.
    """
    train, side = config.train, config.data.resolution
    lines = []
    if largest:
        lines.append(f"--train.batch_size {largest}")
        if parts := _parts(train.batch_size, devices, largest // train.accumulate):
            lines.append(f"--train.accumulate {parts}: the same batch in {parts} parts")
    if config.mode.denoises and train.remat == "none":
        lines.append("--train.remat blocks: activations are computed again; slower")
    encodes = train.mode not in ("vae", "ddpm") and not config.data.stream
    if encodes and not (config.data.center_crop and config.data.encode_once):
        lines.append("--data.center_crop true: the VAE leaves once all pictures are encoded")
    if config.compute_dtype == "float32":
        lines.append("--compute_dtype bfloat16")
    if config.mode.adapters and config.model.base_dtype == "compute":
        lines.append("--model.base_dtype int8: the frozen kernels take a byte a number")
    if devices > 1 and config.mesh.fsdp < devices:
        lines.append(f"--mesh.fsdp {devices}: the frozen weights are divided over the devices")
    if smaller := side * 3 // 4 // 64 * 64:
        lines.append(f"--data.resolution {smaller}: smaller pictures (now {side})")
    return lines


def _parts(batch: int, devices: int, most: int) -> int | None:
    """The fewest equal parts of a batch with at most `most` pictures each, if there are such."""
    for parts in range(2, batch + 1):
        size = batch // parts
        if batch % parts == 0 and size <= most and size % devices == 0:
            return parts
    return None
