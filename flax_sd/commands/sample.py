"""sample.py: generates images from prompts."""

from flax_sd.generation import run
from flax_sd.generation.options import SampleOptions
from flax_sd.system import compiler
from flax_sd.system.allocator import take_gpu_memory


def main(options: SampleOptions) -> int:
    """Generates the images; returns the exit status.

    Args:
      options: model, prompts, sampler, sizes and the folder.

    Returns:
      The exit status: 0, or 130 when told to stop early.

    Raises:
      UserError: the options, the prompts, the model or the folder are wrong.
    """
    compiler.set_up()
    take_gpu_memory()
    return run.run(options)
