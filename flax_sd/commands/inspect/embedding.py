"""The inspect command's rows on an embedding."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from flax_sd.commands.inspect.printout import Page
from flax_sd.embeddings.files import KOHYA_KEY, family, read
from flax_sd.errors import UserError
from flax_sd.lora.formats.compatibility import Support
from flax_sd.weights.safetensors import TensorFile


def inspect_embedding(
    page: Page, file: TensorFile, networks: Mapping[str, nnx.Module] | None
) -> None:
    """Adds token, vectors and the programs that load it.

    Args:
      networks: networks of the model that it should fit, if one was named.
    """
    (key,) = file
    vectors = np.atleast_2d(file[key].astype(np.float32))
    count, width = vectors.shape
    named = key != KOHYA_KEY
    page.add("format", f"embedding, {'diffusers' if named else 'sd-scripts'}' form")
    page.add("token", f"{key if named else file.path.stem}; in ComfyUI and A1111 {file.path.stem}")
    page.add("vectors", f"{count}, {width} wide: {family(width)}")
    page.add("norms", ", ".join(f"{norm:.3g}" for norm in np.linalg.norm(vectors, axis=1)))
    remark = "" if named else f"load_textual_inversion needs token='{file.path.stem}'"
    whole = Support({})
    page.add_support({"diffusers": Support({}, remark), "ComfyUI": whole, "A1111": whole}, 1)
    if networks is not None:
        _add_fit(page, file, networks["text_encoder"])


def _add_fit(page: Page, file: TensorFile, text_encoder: Any) -> None:
    table = text_encoder.text_model.embeddings.token_embedding.embedding
    try:
        read(file.path, table.shape[-1])
    except UserError as error:
        page.add_problem("fits", str(error))
    else:
        page.add("fits", "the model: its text encoder is as wide")
