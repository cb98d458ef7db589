"""The images of a sampling run, and the batches in which they are generated."""

from collections.abc import Sequence
from typing import NamedTuple

from flax_sd.generation.prompts import Row
from flax_sd.pipelines.request import guided


class PlannedImage(NamedTuple):
    """One image: image j of a row has the row's seed + j, in any batch."""

    name: str
    row: Row
    seed: int


class Batch(NamedTuple):
    """Images that are generated together, padded to `size`."""

    images: list[PlannedImage]
    size: int


def images_of(rows: Sequence[Row]) -> list[PlannedImage]:
    """Returns the images of every row, named by row and seed."""
    return [
        PlannedImage(f"{number:05d}_seed{seed}.png", row, seed)
        for number, row in enumerate(rows)
        for seed in range(row.seed, row.seed + row.images_per_prompt)
    ]


def make_batches(images: Sequence[PlannedImage], batch_size: int, devices: int) -> list[Batch]:
    """Groups the images of each compiled program, in order; batches divide over the devices.

    All batches of a program have one size, so that each program is compiled once: at most
    `batch_size` where the devices allow it, and no larger than its images need.
    """
    # program -> guidance scale (an argument of the program, the same for a batch) -> images
    programs: dict[tuple, dict[float, list[PlannedImage]]] = {}
    for image in images:
        row = image.row
        scale, size = row.guidance_scale, (row.height, row.width)
        text = (row.clip_skip, row.max_token_length)
        program = (size, row.steps, guided(scale), row.sampler, *text)
        programs.setdefault(program, {}).setdefault(scale, []).append(image)
    batches = []
    for groups in programs.values():
        needed = -(-max(map(len, groups.values())) // devices) * devices
        size = min(whole_batch(batch_size, devices), needed)
        for group in groups.values():
            parts = [group[start : start + size] for start in range(0, len(group), size)]
            batches += [Batch(part, size) for part in parts]
    return batches


def whole_batch(batch_size: int, devices: int) -> int:
    """Returns the batch size rounded down to a multiple of the devices, at least one for each."""
    return max(devices, batch_size // devices * devices)
