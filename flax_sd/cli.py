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

COMMANDS = {  # the module in flax_sd.commands with its main, and its line in the usage
    "train": ("train.command", "train a LoRA, a UNet or an autoencoder from a config"),
    "sample": ("sample", "generate images from prompts"),
    "export": ("export.command", "write a run's LoRA or merged model for other tools"),
    "inspect": (
        "inspect.command",
        "show the content of a LoRA or embedding file, and which programs load it",
    ),
    "check-data": ("check_data", "find problems of a run's images and captions"),
    "plan": (
        "plan.command",
        "show whether a run fits into memory, and the largest batch that does",
    ),
    "compare": ("compare", "show runs side by side: figures, options, curves, images"),
}


def run(name: str, args: Sequence[str]) -> int:
    """Runs a command by its name; only then its module, and JAX, are imported."""
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
    """Runs the installed command; it may restart its own process."""
    restart_with_tunables()
    main()


def main() -> None:
    """Runs `flax-sd NAME …`."""
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
    """Runs a command; a user's mistake becomes one message and status 2 (--debug: with traceback).

    OS errors such as a full disk are also reported in one line, without a traceback. Ctrl-C, while
    there is nothing to save, ends with status 130. A closed output never ends the command.
    """
    with terminal.enduring():
        debug = "--debug" in args
        _log_to_terminal(debug)
        make_hub_cache()
        return _explained(command, [arg for arg in args if arg != "--debug"], debug)


def _log_to_terminal(debug: bool) -> None:
    """Sends flax_sd's log to standard error, and hides what libraries log beside their errors."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    handler.setFormatter(terminal.Formatter())
    logging.getLogger("flax_sd").handlers[:] = [handler]
    logging.getLogger("flax_sd").propagate = False
    logging.getLogger("absl").setLevel(
        logging.CRITICAL
    )  # Orbax also logs tracebacks of what it raises
    if not debug:  # XLA logs long compilations as errors; fatal errors are still shown
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _explained(command: Callable[[Sequence[str]], int], args: Sequence[str], debug: bool) -> int:
    """Returns the command's exit status, or that of its error."""
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
    """Returns the message; of OS errors the file and the reason, without the number."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
