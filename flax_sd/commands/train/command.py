"""The train command: trains from a config, or repeats a finished run."""

from collections.abc import Sequence

from flax_sd.commands.train import repeat
from flax_sd.config import file as config_file
from flax_sd.system import compiler, distributed
from flax_sd.system.allocator import take_gpu_memory
from flax_sd.system.exit_status import DONE
from flax_sd.training import run


def main(args: Sequence[str]) -> int:
    """Runs `train.py [CONFIG.yaml] [--flag value …]`; without a config, the bundled quickstart.

    `train.py --repeat RUN/config.yaml [--output FOLDER]` trains a finished run again and compares.

    Raises:
      UserError: the config or what it names is wrong.
    """
    old, config = repeat.parse(args) if "--repeat" in args else (None, None)
    config = config or config_file.from_args("train", args)
    compiler.set_up()
    take_gpu_memory()
    if config.train.deterministic:
        compiler.ask_for_determinism()
    distributed.initialize_distributed()
    with distributed.exit_with_peers():
        return run.run(config) or (repeat.compare(old, config.output) if old else DONE)
