"""What becomes of each file of a folder: none is absent without a word."""

import pathlib
from collections.abc import Callable, Iterable, Sequence

from flax_sd.data import masks
from flax_sd.data.sources.file_names import composed, is_there
from flax_sd.data.sources.file_types import (
    CAPTIONS,
    SETS,
    is_about_the_set,
    is_image,
    why_no_part,
    why_unread,
)
from flax_sd.data.sources.records import Bad, Listing, Record, gathered, several
from flax_sd.data.sources.walk import walk
from flax_sd.errors import shown

HIDDEN = "hidden, as its name begins with a dot"


class Account:
    """The files of a folder: by the end each is used, left out or named.

    Attributes:
      files: of which nothing is said yet, in order.
      listing: what is said of the others.

    Raises:
      UserError: the folder cannot be read.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder, self.listing = folder, Listing([], [], [])
        found = walk(folder)
        self.files = dict.fromkeys(found.files)
        # 1.TXT is read as 1.txt is; of both, 1.txt, which comes later.
        self._by_ending = {composed(_small_ending(path)): path for path in found.files}
        self._by_ending |= {_small_ending(path): path for path in found.files}
        for path, why in found.lost:
            # What has no ending may be a folder of images.
            meant = is_image(path) or path.suffix.lower() in ("", *SETS)
            (self.leave_out if meant else self.set_aside)(path, why)
        for path, why in found.others:
            self.set_aside(path, why)
        if found.hidden:
            name = several([self.name(path) for path in found.hidden])
            self.listing.unused.append(Bad(name, HIDDEN))

    def name(self, path: pathlib.Path) -> str:
        """Returns the name of a file in the folder, safe to print."""
        return shown(path.relative_to(self.folder).as_posix())

    def images(self) -> list[pathlib.Path]:
        """Returns the images that are not accounted for yet."""
        return list(filter(is_image, self.files))

    def below(self, folders: Iterable[pathlib.Path]) -> dict[pathlib.Path, list[pathlib.Path]]:
        """Returns the files of each folder that are not accounted for yet."""
        found = {folder: list[pathlib.Path]() for folder in folders}
        for path in self.files:
            holder = next((parent for parent in path.parents if parent in found), None)
            if holder is not None:
                found[holder].append(path)
        return found

    def find(self, path: pathlib.Path) -> pathlib.Path | None:
        """Returns the file of that name, whose extension may be in capitals, if there is one."""
        path = _small_ending(path)
        return self._by_ending.get(path) or self._by_ending.get(composed(path))

    def use(self, *paths: pathlib.Path) -> None:
        """Records that files are read."""
        for path in paths:
            self.files.pop(path, None)

    def leave_out(self, path: pathlib.Path, why: str, name: str | None = None) -> None:
        """Records an image that cannot be used."""
        self._use_with_mask(path)
        self.listing.bad.append(Bad(self.name(path) if name is None else name, why))

    def set_aside(self, path: pathlib.Path, why: str) -> None:
        """Records a file that is not part of the set."""
        self._use_with_mask(path)
        self.listing.unused.append(Bad(self.name(path), why))

    def set_aside_together(self, paths: Sequence[pathlib.Path], why: str) -> None:
        """Records files that are not part of the set, in one line."""
        if paths:
            name = several([self.name(path) for path in paths])
            self.listing.unused.append(Bad(name, why))
            self.use(*paths)

    def add(
        self,
        path: pathlib.Path,
        captions: tuple[str, ...],
        *,
        name: str | None = None,
        by_folder: bool = False,
    ) -> None:
        """Records an image that is used, with its mask."""
        mask = self._use_with_mask(path)
        name = self.name(path) if name is None else name
        record = Record(name, captions, path.read_bytes, mask=mask, by_folder=by_folder)
        self.listing.records.append(record)

    def close(self, why: Callable[[pathlib.Path], str | None]) -> None:
        """Names all other files; those with the same extension and reason together.

        Args:
          why: what is to be said of a file by name; None of one that goes with others.
        """
        others = list[Bad]()
        for path in filter(why_unread, list(self.files)):
            captions = (self.find(path.with_suffix(end)) for end in CAPTIONS)
            self.use(*(caption for caption in captions if caption))
        for path in list(self.files):
            if is_about_the_set(path):
                self.use(path)
            elif reason := why_unread(path) or why(path):
                self.set_aside(path, reason)
            else:
                others.append(Bad(self.name(path), why_no_part(path)))
                self.use(path)
        self.listing.unused.extend(gathered(others))

    def _use_with_mask(self, path: pathlib.Path) -> pathlib.Path | None:
        """Records an image and its mask, and returns the mask."""
        if not path.name:
            return None
        mask = self.find(masks.mask_path(path))
        if mask is None and is_there(masks.mask_path(path)):  # hidden, and named by a metadata file
            mask = masks.mask_path(path)
        self.use(path, *([mask] if mask else []))
        return mask


def _small_ending(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.stem + path.suffix.lower())
