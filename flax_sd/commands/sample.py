"""sample.py: pictures from prompts."""

from collections.abc import Sequence

from flax_sd.config import flags
from flax_sd.generation.options import SampleOptions


def parse(args: Sequence[str]) -> SampleOptions:
    """Reads the flags.

    Raises:
      SystemExit: a flag is wrong (status 2) or --help was asked for (status 0).
    """
    return flags.read_flags(SampleOptions, "sample", args)
