"""Embeddings inside a LoRA's file, as A1111 reads them and OneTrainer writes them.

Their names are `bundle_emb.TOKEN.clip_l` and `.clip_g`, or `bundle_emb.TOKEN.string_to_param.*`
(`load_network` of A1111's `extensions-builtin/Lora/networks.py`).
"""

import collections
import re
from collections.abc import Mapping

import numpy as np

from flax_sd.embeddings.embedding import CLIP_KEYS, Embedding, fitted
from flax_sd.embeddings.files import KOHYA_KEY
from flax_sd.errors import UserError
from flax_sd.weights.safetensors import TensorFile

PREFIX = "bundle_emb."
_ONE = (KOHYA_KEY, "string_to_param.*")
_KEY = re.compile(
    rf"{re.escape(PREFIX)}(.+)\.({'|'.join(map(re.escape, (*CLIP_KEYS, *_ONE)))})", re.DOTALL
)


def read_bundled(file: TensorFile, widths: Mapping[str, int]) -> list[Embedding]:
    """Reads the embeddings of a LoRA's file; none if it has none.

    Args:
      widths: of the model's text encoders, by component.

    Raises:
      UserError: they have other names, or are for another model.
    """
    groups: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
    for key in sorted(key for key in file if key.startswith(PREFIX)):
        match = _KEY.fullmatch(key)
        if match is None or len(file.shape(key)) not in (1, 2):
            raise UserError(
                f"{file.path} holds {key} {list(file.shape(key))}, an embedding beside the LoRA: "
                f"it should be [d] or [n, d], under {' or '.join((*CLIP_KEYS, *_ONE))}"
            )
        groups[match[1]][match[2]] = np.atleast_2d(np.array(file[key], np.float32))
    where = f"{file.path}: embedding"
    return [
        Embedding(token, fitted(f"{where} {token}", tables, widths))
        for token, tables in groups.items()
    ]
