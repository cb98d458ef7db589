"""The commands: `flax-sd NAME …`, and what train.py and sample.py call."""

import importlib.util
import logging
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from flax_sd.errors import UserError
from flax_sd.files.paths import user_path
from flax_sd.files.user_cache import make_hub_cache
from flax_sd.system import terminal
from flax_sd.system.allocator import restart_with_tunables, take_gpu_memory

BAD_INPUT, INTERRUPTED = 2, 130  # exit statuses
DETERMINISTIC = "--xla_gpu_deterministic_ops"


def train(args: Sequence[str]) -> int:
    """`train.py [CONFIG.yaml] [--flag value …]`: the bundled quickstart if no config is named.

    `train.py --repeat RUN/config.yaml [--output FOLDER]` trains a finished run anew and compares.
    """
    return guarded(_train, args)


def sample(args: Sequence[str]) -> int:
    """`sample.py --model … --prompt …`."""
    return guarded(_sample, args)


def export(args: Sequence[str]) -> int:
    """`flax-sd export RUN --to FORMAT --out PATH`."""
    return guarded(_export, args)


def inspect(args: Sequence[str]) -> int:
    """`flax-sd inspect FILE_OR_FOLDER [--model MODEL]`."""
    return guarded(_inspect, args)


def plan(args: Sequence[str]) -> int:
    """`flax-sd plan [CONFIG.yaml] [--topology v5e:4x4] [--device-memory 24GB] [--flag value …]`."""
    return guarded(_plan, args)


def check_data(args: Sequence[str]) -> int:
    """`flax-sd check-data [CONFIG.yaml] [--flag value …]`."""
    return guarded(_check_data, args)


def compare(args: Sequence[str]) -> int:
    """`flax-sd compare RUN RUN … [--out compare.html]`."""
    return guarded(_compare, args)


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (train, "train a LoRA, a UNet or an autoencoder from a config"),
    "sample": (sample, "draw pictures from prompts"),
    "export": (export, "write a run's LoRA or merged model for other tools"),
    "inspect": (inspect, "say what is in a LoRA or embedding file, and where it opens"),
    "check-data": (check_data, "say what is wrong with a run's pictures and captions"),
    "plan": (plan, "say before a run whether it fits, and the largest batch that does"),
    "compare": (compare, "show runs beside one another: figures, options, curves, pictures"),
}


def start() -> None:
    """The installed command: a process of its own, which may start itself again."""
    restart_with_tunables()
    main()


def main() -> None:
    """`flax-sd NAME …`."""
    name, *args = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        sys.exit(COMMANDS[name][0](args))
    lines = [f"  flax-sd {key:10} {text}" for key, (_, text) in COMMANDS.items()]
    with terminal.enduring():
        terminal.show("\n".join(["usage: flax-sd COMMAND [--help] …", "", *lines]))
        if name not in ("-h", "--help"):
            terminal.complain(f"error: there is no command {name!r}")
            sys.exit(BAD_INPUT)


def guarded(command: Callable[[Sequence[str]], int], args: Sequence[str]) -> int:
    """Runs a command; a user's mistake becomes one message and status 2 (--debug: the trace too).

    A full disk is a mistake of nobody's, but needs no trace either. Ctrl-C while nothing is there
    to be saved ends with status 130. What becomes of the output never ends the command.
    """
    with terminal.enduring():
        debug = "--debug" in args
        _log_to_terminal(debug)
        make_hub_cache()
        return _explained(command, [arg for arg in args if arg != "--debug"], debug)


def _log_to_terminal(debug: bool) -> None:
    """What flax_sd logs goes to standard error; what libraries log beside their errors does not."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    handler.setFormatter(terminal.Formatter())
    logging.getLogger("flax_sd").handlers[:] = [handler]
    logging.getLogger("flax_sd").propagate = False
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs traces of what it raises too
    if (
        not debug
    ):  # XLA calls a compilation of two minutes an error; what ends a process is still said
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _explained(command: Callable[[Sequence[str]], int], args: Sequence[str], debug: bool) -> int:
    """The command's exit status, or that of what it raised."""
    try:
        return command(args)
    except KeyboardInterrupt:
        terminal.complain("stopped by Ctrl-C")
        return INTERRUPTED
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise
        if debug:
            traceback.print_exc()
        terminal.complain(f"error: {_said(error)}")
        return BAD_INPUT


def _said(error: UserError | OSError) -> str:
    """A sentence; of the system's own errors the file and what is wrong with it, no number."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def config_path(name: str) -> pathlib.Path:
    """A config file by its path, or by its name among those that come with the package.

    Raises:
      UserError: the name is empty, or names a user without a home folder.
    """
    try:
        path = user_path(name)
    except ValueError as error:
        raise UserError(f"the config's name {error}") from error
    if path.exists():
        return path
    package = pathlib.Path(__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        for candidate in (folder / path.name, folder / f"{path.name}.yaml"):
            if candidate.is_file():
                return candidate
    return path


def ask_for_determinism() -> None:
    """Tells XLA to use only such operations on a GPU as give the same bytes each time.

    It must be called before JAX looks for devices. On a CPU the flag is known and has no effect; a
    TPU's compiler, which is always deterministic, may stop at flags that it does not know.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    on_tpu = importlib.util.find_spec("libtpu") is not None
    if DETERMINISTIC not in flags and not on_tpu:  # the user may have said otherwise
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}=true".strip()


def _train(args: Sequence[str]) -> int:
    from flax_sd.commands import repeat
    from flax_sd.system import compiler, distributed
    from flax_sd.training import run as runs_train

    again = repeat.parse(args) if "--repeat" in args else None
    config = again.config if again else _read_config("train", args)
    compiler.set_up()
    take_gpu_memory()
    if config.train.deterministic:
        ask_for_determinism()
    distributed.initialize_distributed()
    with distributed.together():
        return repeat.run(again) if again else runs_train.run(config)


def _read_config(name: str, args: Sequence[str]) -> Any:
    """The Config of the file that comes first (the quickstart if none does) and of the flags."""
    from flax_sd.config import file

    named = bool(args) and not args[0].startswith("-")
    path = config_path(args[0] if named else "quickstart.yaml")
    return file.parse(path, args[1:] if named else args, name)


def _sample(args: Sequence[str]) -> int:
    from flax_sd.commands import sample as sample_command
    from flax_sd.generation import run as runs_sample
    from flax_sd.system import compiler

    compiler.set_up()
    take_gpu_memory()
    return runs_sample.run(sample_command.parse(args))


def _export(args: Sequence[str]) -> int:
    from flax_sd.commands.export import command as runs_export

    return runs_export.run(runs_export.parse(args))


def _inspect(args: Sequence[str]) -> int:
    from flax_sd.commands.inspect import command as runs_inspect

    return runs_inspect.run(runs_inspect.parse(args))


def _compare(args: Sequence[str]) -> int:
    from flax_sd.commands import compare as compare_command

    return compare_command.run(compare_command.parse(args))


def _check_data(args: Sequence[str]) -> int:
    from flax_sd.commands import check_data as check_command

    return check_command.run(_read_config("check-data", args))


def _plan(args: Sequence[str]) -> int:
    from flax_sd.commands.plan import command as runs_plan

    take_gpu_memory()
    options, rest = runs_plan.parse(args)
    config = _read_config("plan", rest)
    if config.train.deterministic and options.topology is None:
        ask_for_determinism()
    return runs_plan.run(config, options)
