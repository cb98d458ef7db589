"""The inspect command's printout of a file: rows of a label and lines."""

import collections
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from flax_sd.lora.formats.compatibility import Support
from flax_sd.weights.safetensors import TensorFile

_NAMES_SHOWN = 3  # names in a row, without --all
_LABEL_WIDTH = 12  # letters


class Page:
    """Rows in the order in which they were added.

    Attributes:
      whole: no problem was found: the file can be loaded completely.
    """

    def __init__(self, path: pathlib.Path, every: bool):
        """Takes the file; `every` lists all keys of a problem."""
        self.whole = True
        self._every = every
        self._lines = [str(path)]

    def add(self, label: str, *lines: str) -> None:
        """Adds a row of the lines that are not empty; nothing if there are none."""
        for line in filter(None, lines):
            self._lines.append(f"  {label:{_LABEL_WIDTH}}  {line}")
            label = ""

    def add_problem(self, label: str, *lines: str) -> None:
        """Adds a row on a problem."""
        self.add(label, *lines)
        self.whole = self.whole and not lines

    def add_support(self, support: Mapping[str, Support], total: int) -> None:
        """Adds the number of keys that each program loads, and the other keys by reason."""
        self._lines.append("  opens in")
        for program, (not_loaded, remark) in support.items():
            count = f"{total - len(not_loaded)} of {total} keys"
            self.add(f"  {program}", count + (f"; {remark}" if remark else ""))
            reasons: dict[str, list[str]] = collections.defaultdict(list)
            for key, why in not_loaded.items():
                reasons[why].append(key)
            for why, keys in reasons.items():
                self.add_problem("", f"  {len(keys)} not: {why}", *self._names(keys))

    def text(self) -> str:
        """Returns all rows."""
        return "\n".join(line.rstrip() for line in self._lines)

    def names(self, keys: Sequence[str]) -> list[str]:
        """Returns the first few keys, or all."""
        shown = keys if self._every else keys[:_NAMES_SHOWN]
        more = len(keys) - len(shown)
        return [*shown, *([f"and {more} more (--all names them)"] if more else ())]

    def _names(self, keys: Sequence[str]) -> list[str]:
        return [f"    {name}" for name in self.names(sorted(keys))]


def add_general(page: Page, file: TensorFile) -> None:
    """Adds tensors, dtypes and size, and tensors with numbers that are not finite."""
    dtypes = collections.Counter(file.dtype(key).name for key in file)
    kinds = ", ".join(f"{count} in {name}" for name, count in dtypes.most_common())
    size = file.path.stat().st_size
    shown = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
    page.add("tensors", f"{kinds}; {shown}")
    wrong = [key for key in sorted(file) if not np.isfinite(file[key].astype(np.float32)).all()]
    if wrong:
        count = f"NaN or infinite in {len(wrong)} of {len(file)} tensors"
        page.add_problem("numbers", count, *page.names(wrong))
    else:
        page.add("numbers", "all finite")
