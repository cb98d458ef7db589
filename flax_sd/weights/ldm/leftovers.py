"""What a single file holds beside its components, and the file of a folder that keeps it.

Diffusers' components have no place for OpenCLIP's `logit_scale`, SD 2.x's 24th block, a running
mean, marks and metadata. A folder that is made of a single file keeps them in a file of its own,
which diffusers ignores, so that the way back gives the same file.
"""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from flax_sd.weights.deferred import Deferred
from flax_sd.weights.safetensors import TensorFile, write

FILE = "single_file_leftovers.safetensors"


class Leftovers(NamedTuple):
    """Tensors and metadata of a single file that no component has.

    Attributes:
      tensors: by their names in the file, with the prefixes that are written.
      metadata: the strings of its header.
    """

    tensors: Mapping[str, Deferred]
    metadata: Mapping[str, str]

    @classmethod
    def of_folder(cls, folder: pathlib.Path) -> "Leftovers":
        """Reads those that a folder keeps; none of a folder that was never a single file.

        Raises:
          UserError: the file is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            return cls({}, {})
        file = TensorFile(path)
        return cls({name: Deferred.of(file, name) for name in file}, file.metadata)

    def save(self, folder: pathlib.Path) -> None:
        """Writes them into a folder; nothing if there are none.

        Raises:
          UserError: the disk is full.
        """
        if self.tensors or self.metadata.keys() - {"format"}:
            write(folder / FILE, self.tensors, self.metadata)
