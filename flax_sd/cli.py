"""The commands: `flax-sd NAME …`, and what train.py and sample.py call."""

import functools
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.logging import RichHandler

from flax_sd.errors import UserError
from flax_sd.files.user_cache import make_hub_cache
from flax_sd.system import terminal
from flax_sd.system.allocator import restart_with_tunables
from flax_sd.system.exit_status import BAD_INPUT, STOPPED

COMMANDS = {  # the module in flax_sd.commands whose main it is, and what the usage says of it
    "train": ("train.command", "train a LoRA, a UNet or an autoencoder from a config"),
    "sample": ("sample", "draw pictures from prompts"),
    "export": ("export.command", "write a run's LoRA or merged model for other tools"),
    "inspect": ("inspect.command", "say what is in a LoRA or embedding file, and where it opens"),
    "check-data": ("check_data", "say what is wrong with a run's pictures and captions"),
    "plan": ("plan.command", "say before a run whether it fits, and the largest batch that does"),
    "compare": ("compare", "show runs beside one another: figures, options, curves, pictures"),
}


def run(name: str, args: Sequence[str]) -> int:
    """Runs a command by its name; its module, and with it JAX, is imported only now."""
    module = f"flax_sd.commands.{COMMANDS[name][0]}"
    return guarded(lambda own: importlib.import_module(module).main(own), args)


train = functools.partial(run, "train")
sample = functools.partial(run, "sample")
export = functools.partial(run, "export")
inspect = functools.partial(run, "inspect")
check_data = functools.partial(run, "check-data")
plan = functools.partial(run, "plan")
compare = functools.partial(run, "compare")


def start() -> None:
    """The installed command: a process of its own, which may start itself again."""
    restart_with_tunables()
    main()


def main() -> None:
    """`flax-sd NAME …`."""
    name, *args = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        sys.exit(run(name, args))
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
    if not debug:  # XLA calls two minutes of compiling an error; what ends a process is still said
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _explained(command: Callable[[Sequence[str]], int], args: Sequence[str], debug: bool) -> int:
    """The command's exit status, or that of what it raised."""
    try:
        return command(args)
    except KeyboardInterrupt:
        terminal.complain("stopped by Ctrl-C")
        return STOPPED
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
