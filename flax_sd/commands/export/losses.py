"""Says what of a written LoRA other programs do not load."""

import collections

from flax_sd.lora.formats.compatibility import support
from flax_sd.lora.formats.contents import LoRAContents
from flax_sd.system.progress import Progress
from flax_sd.weights.family import Family


def say_losses(contents: LoRAContents, family: Family | None, progress: Progress) -> None:
    """Prints a line for each program and reason.

    Args:
      family: of the model that the file is for; None if it is not known.
    """
    total = len(contents.file)
    for program, (not_loaded, remark) in support(contents, family).items():
        for why, count in collections.Counter(not_loaded.values()).items():
            progress.say(f"{program} does not load {count} of {total} keys: {why}")
        if remark:
            progress.say(f"{program}: {remark}")
