"""Options by the names that earlier versions had for them."""

import logging

from flax_sd.config import Config
from flax_sd.config.section import Formerly, marks

FORMER_NAMES = {
    f"{name.rpartition('.')[0]}.{mark.name}": name for name, mark in marks(Config, Formerly).items()
}
LOGGER = logging.getLogger("flax_sd")
SAID = set[str]()  # former names that were met


def current_name(name: str) -> str:
    """Returns an option's name, of which earlier versions may have had another; says so once."""
    if name not in FORMER_NAMES:
        return name
    if name not in SAID:
        SAID.add(name)
        LOGGER.warning("%s is called %s now", name, FORMER_NAMES[name])
    return FORMER_NAMES[name]
