"""sample.py: generates images from prompts."""

from collections.abc import Sequence

from flax_sd.config import flags
from flax_sd.generation import run
from flax_sd.generation.options import SampleOptions
from flax_sd.system import compiler
from flax_sd.system.allocator import take_gpu_memory


def main(args: Sequence[str]) -> int:
    """Runs `sample.py --model MODEL --prompt TEXT [--flag value …]`.

    Raises:
      UserError: the flags, the prompts, the model or the folder are wrong.
    """
    compiler.set_up()
    take_gpu_memory()
    return run.run(flags.read_flags(SampleOptions, "sample", args))
