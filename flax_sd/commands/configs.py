"""flax-sd configs: lists the configs that come with the package, or prints one."""

import re
import textwrap

from flax_sd.config.commands import ConfigsOptions
from flax_sd.config.file import bundled_configs
from flax_sd.config.mistakes import nearest
from flax_sd.errors import UserError
from flax_sd.files.text import read_text
from flax_sd.system import terminal
from flax_sd.system.exit_status import DONE

WIDTH = 100


def main(options: ConfigsOptions) -> int:
    """Prints the list, or the config that is named.

    Raises:
      UserError: there is no such config.
    """
    found = bundled_configs()
    if options.name is None:
        longest = max(map(len, found))
        for name, path in found.items():
            text = textwrap.fill(
                purpose(read_text(path)), WIDTH - longest - 2, break_on_hyphens=False
            )
            indented = textwrap.indent(text, " " * (longest + 2)).lstrip()
            terminal.show(f"{name:{longest}}  {indented}")
        return DONE
    name = options.name.removesuffix(".yaml")
    if name not in found:
        meant = nearest(name, found) or f": there are {', '.join(found)}"
        raise UserError(f"there is no config {options.name} in the package{meant}")
    terminal.show(read_text(found[name]).rstrip())
    return DONE


def purpose(text: str) -> str:
    """Returns the first sentence of the comment at a config's head."""
    head = re.match(r"(#.*\n)+", text)
    words = " ".join(line.lstrip("# ") for line in head[0].splitlines()) if head else ""
    return re.split(r"(?<=\.) +(?=[A-Z]|python )", words)[0]
