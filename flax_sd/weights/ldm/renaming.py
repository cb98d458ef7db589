"""One-to-one renaming of modules, in both directions."""

from collections.abc import Iterable, Mapping


class Renaming:
    """Renames a module, and with it all that is inside; the longest name that fits counts."""

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        """Stores pairs of the LDM name and diffusers' name of a module or tensor.

        Where several LDM names have one of diffusers, the last of them is its LDM name.
        """
        self._diffusers = dict(pairs)
        self._ldm = {theirs: ldm for ldm, theirs in self._diffusers.items()}

    def to_diffusers(self, name: str) -> str | None:
        """Returns diffusers' name of a tensor; None if no module has it."""
        return _renamed(name, self._diffusers)

    def to_ldm(self, key: str) -> str | None:
        """Returns the LDM name of a tensor; None if no module has it."""
        return _renamed(key, self._ldm)


def _renamed(name: str, modules: Mapping[str, str]) -> str | None:
    module = name
    while module not in modules:
        module = module.rpartition(".")[0]
        if not module:
            return None
    return modules[module] + name[len(module) :]
