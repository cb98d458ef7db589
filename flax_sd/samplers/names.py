"""The names of samplers, and of the schedules that web UIs choose beside them."""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from flax_sd.errors import UserError
from flax_sd.samplers.registry import SAMPLERS
from flax_sd.samplers.sigma_spacing import SPREADS


class Schedule(NamedTuple):
    """A way to space the steps, which web UIs choose beside the sampler.

    Attributes:
      title: its name in web UIs.
      config: the fields that mean it to diffusers' classes.
    """

    title: str
    config: Mapping[str, object]


SCHEDULES = MappingProxyType(  # by the words behind a sampler's name
    {
        "karras": Schedule("Karras", {"use_karras_sigmas": True}),
        "exponential": Schedule("Exponential", {"use_exponential_sigmas": True}),
        "beta": Schedule("Beta", {"use_beta_sigmas": True}),
        "sgm_uniform": Schedule("SGM Uniform", {"timestep_spacing": "trailing"}),
        "simple": Schedule("Simple", {"timestep_spacing": "trailing"}),
        "normal": Schedule("Uniform", {"timestep_spacing": "linspace"}),
        "ddim_uniform": Schedule("DDIM", {"timestep_spacing": "leading"}),
        "uniform": Schedule("DDIM", {"timestep_spacing": "leading"}),
    }
)


class Named(NamedTuple):
    """What a name stands for.

    Attributes:
      sampler: a key of `SAMPLERS`; None for the checkpoint's own.
      schedule: a key of `SCHEDULES`; None for the checkpoint's own.
    """

    sampler: str | None
    schedule: str | None

    @property
    def name(self) -> str:
        """The name by which both are found again."""
        return "_".join(part for part in self if part is not None)


def find(name: str) -> Named:
    """Returns the sampler and the schedule of a name.

    Args:
      name: a key of `SAMPLERS`, a class of diffusers, or a name of a web UI, of ComfyUI or
        sd-scripts; with a schedule behind it as in "DPM++ 2M Karras", or a schedule alone.

    Raises:
      UserError: there is no such sampler, or it has not such a schedule.
    """
    asked = plain(name)
    for words in ("", *SCHEDULES):
        first = asked if not words else asked.removesuffix(words).removesuffix("_")
        if words and not asked.endswith(words):
            continue
        if first in _SPELLINGS or (words and not first):
            found = Named(_SPELLINGS.get(first), words or None)
            _check(name, found)
            return found
    near = difflib.get_close_matches(asked, _SPELLINGS, n=1)
    hint = f" (did you mean {_SPELLINGS[near[0]]}?)" if near else ""
    raise UserError(
        f"there is no sampler {name!r}{hint}: there are {', '.join(SAMPLERS)}; and behind a name "
        f"{', '.join(SCHEDULES)}, as in dpmpp_2m_karras"
    )


def plain(name: str) -> str:
    """Returns a name as keys are spelled: "DPM++ 2M Karras" is dpmpp_2m_karras."""
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower().replace("+", "p")).strip("_")


def _check(name: str, found: Named) -> None:
    if found.sampler is None or found.schedule is None:
        return
    config_class = SAMPLERS[found.sampler].config_class
    reads = {field.name for field in dataclasses.fields(config_class)}
    for field in SCHEDULES[found.schedule].config:
        if field not in reads:
            raise UserError(
                f"there is no sampler {name!r}: {found.sampler} has no {found.schedule}, as "
                f"diffusers' {SAMPLERS[found.sampler].class_name} does not read {field}"
            )


def full_name(name: str | None, checkpoint_config: Mapping[str, object]) -> str:
    """Returns the name, with the checkpoint's own sampler where it has none.

    Args:
      name: of a sampler, of a schedule, or of both; None for the checkpoint's own.
      checkpoint_config: the parsed scheduler_config.json; a class that is not known keeps its name.

    Raises:
      UserError: there is no sampler of that name.
    """
    found = Named(None, None) if name is None else find(name)
    if found.sampler is not None:
        return found.name
    own = str(checkpoint_config.get("_class_name"))
    alike = [
        key
        for key, entry in SAMPLERS.items()
        if entry.class_name == own and entry.config.items() <= checkpoint_config.items()
    ]
    best = max(alike, key=lambda key: len(SAMPLERS[key].config), default=own)
    rules = [rule for rule in SPREADS if checkpoint_config.get(f"use_{rule}_sigmas") is True]
    return Named(best, found.schedule or next(iter(rules), None)).name


def web_names(name: str) -> tuple[str, str | None]:
    """Returns the names that web UIs have for a sampler and its schedule.

    Args:
      name: as `full_name` returns it; one that is not known keeps its name.
    """
    try:
        found = find(name)
    except UserError:
        return name, None
    title = name if found.sampler is None else SAMPLERS[found.sampler].title
    return title, None if found.schedule is None else SCHEDULES[found.schedule].title


def _spellings() -> dict[str, str]:
    """Returns the key of each spelling, as `plain` writes it."""
    found = {}
    for key, entry in SAMPLERS.items():
        for spelling in (key, entry.title, entry.class_name, *entry.aliases):
            found.setdefault(plain(spelling), key)
    return found


_SPELLINGS = MappingProxyType(_spellings())
