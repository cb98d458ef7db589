"""The inspect command's rows on an embedding."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_sd.commands.inspect.printout import Page
from flax_sd.embeddings.embedding import CLIP_KEYS, family
from flax_sd.embeddings.files import KOHYA_KEY, read, token_of
from flax_sd.errors import UserError
from flax_sd.lora.formats.compatibility import Support
from flax_sd.weights.safetensors import TensorFile


def inspect_embedding(page: Page, file: TensorFile, networks: Mapping[str, Any] | None) -> None:
    """Adds token, vectors and the programs that load it.

    Args:
      networks: networks of the model that it should fit, if one was named.
    """
    tables = {key: np.atleast_2d(file[key].astype(np.float32)) for key in sorted(file)}
    names = set(tables)
    xl, token, stem = names <= CLIP_KEYS.keys(), token_of(file), file.path.stem
    form = "SDXL's" if xl else "sd-scripts'" if names == {KOHYA_KEY} else "diffusers'"
    page.add("format", f"embedding, {form} form")
    page.add("token", f"{token}; in ComfyUI and A1111 {stem}")
    for key, rows in tables.items():
        whose = f"{key}, of SDXL" if xl else family(rows.shape[1])
        page.add("vectors", f"{len(rows)}, {rows.shape[1]} wide: {whose}")
        page.add("norms", ", ".join(f"{norm:.3g}" for norm in np.linalg.norm(rows, axis=1)))
    remark = f"load_textual_inversion needs token='{token}'" if names == {KOHYA_KEY} else ""
    remark = "load_textual_inversion takes each table for its text encoder" if xl else remark
    whole = Support({})
    named = {"diffusers": Support({}, remark), "ComfyUI": whole, "A1111": whole}
    page.add_support(named, len(tables))
    if networks is not None:
        _add_fit(page, file, networks)


def _add_fit(page: Page, file: TensorFile, networks: Mapping[str, Any]) -> None:
    texts = {name: own for name, own in networks.items() if name.startswith("text_encoder")}
    try:
        read(file.path, {name: own.config.hidden_size for name, own in texts.items()})
    except UserError as error:
        page.add_problem("fits", str(error))
    else:
        page.add(
            "fits", "the model: its text encoder is as wide" if len(texts) == 1 else "the model"
        )
