"""The train command: trains from a config, or repeats a finished run."""

from flax_sd.commands.train import repeat
from flax_sd.config.commands import TrainOptions
from flax_sd.config.file import Given
from flax_sd.system import compiler, distributed
from flax_sd.system.allocator import take_gpu_memory
from flax_sd.system.exit_status import DONE
from flax_sd.training import run


def main(options: TrainOptions, given: Given) -> int:
    """Trains, or repeats a finished run and compares the results; returns the exit status.

    Args:
      options: those of the command itself.
      given: the config, and how it was given.

    Returns:
      The exit status: 0, or 130 when told to stop early.

    Raises:
      UserError: the config or what it names is wrong.
    """
    old, config = options.repeat, given.config
    if old is not None:
        config = repeat.again(old, given)
        given = given._replace(path=old)
    compiler.set_up()
    take_gpu_memory()
    if config.train.deterministic:
        compiler.ask_for_determinism()
    distributed.initialize_distributed()
    with distributed.exit_with_peers():
        ended = run.run(config, given, verbose=options.verbose)
        return ended or (repeat.compare(old.parent, config.output) if old else DONE)
