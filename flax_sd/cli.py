"""The commands: `flax-sd NAME …`, and what train.py and sample.py call."""

import functools
import importlib
import importlib.metadata
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.logging import RichHandler

from flax_sd.errors import UserError
from flax_sd.files.user_cache import make_hub_cache
from flax_sd.system import terminal
from flax_sd.system.allocator import restart_with_tunables
from flax_sd.system.exit_status import BAD_INPUT, DONE, STOPPED


class Entry(NamedTuple):
    """Where a command is.

    Attributes:
      main: its module in flax_sd.commands, which imports JAX.
      options: the module and the class of its options, which do not.
    """

    main: str
    options: str = "config.commands"
    kind: str = ""


COMMANDS = {
    "train": Entry("train.command", kind="TrainOptions"),
    "sample": Entry("sample", "generation.options", "SampleOptions"),
    "export": Entry("export.command", kind="ExportOptions"),
    "convert": Entry("convert", kind="ConvertOptions"),
    "inspect": Entry("inspect.command", kind="InspectOptions"),
    "check-data": Entry("check_data", kind="CheckDataOptions"),
    "plan": Entry("plan.command", kind="PlanOptions"),
    "bench": Entry("bench.command", kind="BenchOptions"),
    "compare": Entry("compare", kind="CompareOptions"),
    "configs": Entry("configs", kind="ConfigsOptions"),
}
HELP, WHOLE_HELP, VERSION = ("-h", "--help"), "--help-all", ("-V", "--version")


def run(name: str, args: Sequence[str]) -> int:
    """Runs a command by its name; its module, and JAX, are imported once its options are read."""
    return guarded(functools.partial(_run, name), args)


def _run(name: str, args: Sequence[str]) -> int:
    # Not imported above: what starts again must not have taken its time.
    from flax_sd.config import file, flags

    kind, main = options_of(name), f"flax_sd.commands.{COMMANDS[name].main}"
    if {*HELP, WHOLE_HELP} & set(args):
        terminal.show(_help(name, args))
        return DONE
    if not kind.CONFIG:
        options = flags.read_flags(kind, args)
        return importlib.import_module(main).main(options)
    options, given = file.from_args(kind, args)
    return importlib.import_module(main).main(options, given)


def options_of(name: str) -> Any:
    """Returns the class of a command's options."""
    entry = COMMANDS[name]
    return getattr(importlib.import_module(f"flax_sd.{entry.options}"), entry.kind)


def _help(name: str, args: Sequence[str]) -> str:
    """Returns a command's help; of one that takes a config, with the values of that."""
    from flax_sd.config import file, help

    kind, config = options_of(name), None
    if kind.CONFIG:
        config = file.load(file.named_config(args)[0])
    return help.page(kind, name, config, whole=WHOLE_HELP in args)


train = functools.partial(run, "train")
sample = functools.partial(run, "sample")
export = functools.partial(run, "export")
convert = functools.partial(run, "convert")
inspect = functools.partial(run, "inspect")
check_data = functools.partial(run, "check-data")
plan = functools.partial(run, "plan")
compare = functools.partial(run, "compare")
configs = functools.partial(run, "configs")


def start() -> None:
    """Runs the installed command; it may restart its own process."""
    restart_with_tunables()
    main()


def main() -> None:
    """Runs `flax-sd NAME …`."""
    name, *args = sys.argv[1:] or ["help"]
    if name in COMMANDS:
        sys.exit(run(name, args))
    if name == "help" and args:
        sys.exit(run(args[0], [HELP[1]]) if args[0] in COMMANDS else _unknown(args[0]))
    with terminal.enduring():
        if name in VERSION:
            terminal.show(_versions())
        elif name in ("help", *HELP, WHOLE_HELP):
            terminal.show(_commands())
        else:
            sys.exit(_unknown(name))


def _unknown(name: str) -> int:
    """Says that there is no such command."""
    from flax_sd.config.mistakes import nearest

    meant = nearest(name, COMMANDS) or f": the commands are {', '.join(COMMANDS)}"
    terminal.complain(f"error: there is no command {name!r}{meant}")
    return BAD_INPUT


def _versions() -> str:
    """Returns the versions of this package and of those that a run depends on most."""
    names = ("flax_sd", "jax", "flax")
    found = {dist: importlib.metadata.version(dist) for dist in names if _is_installed(dist)}
    return ", ".join(f"{name} {found.get(name, '(a checkout)')}" for name in names)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _commands() -> str:
    """Returns the list of the commands."""
    from flax_sd.config.help import summary

    lines = [f"  {name:11} {summary(options_of(name))}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: flax-sd COMMAND [--OPTION VALUE ...]",
            "",
            *lines,
            "",
            "flax-sd COMMAND --help shows the options of a command; --version the versions",
        ]
    )


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
