"""The configs of the public models, which come with the package, and their tokenizers."""

import functools
import json
import pathlib

from flax_sd.files.json_values import JsonObject
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.weights.ldm.parts import Template

_BUNDLED = pathlib.Path(__file__).parents[2] / "bundled"
_TOKENIZER = _BUNDLED / "base" / "tokenizer"  # has CLIP's whole vocabulary
_SPECIAL = "special_tokens_map.json"  # which goes before tokenizer_config.json


@functools.cache
def _text(template: Template) -> str:
    return (_BUNDLED / "single_file" / f"{template}.json").read_text("utf-8")


def base_configs(template: Template) -> dict[str, JsonObject]:
    """Returns a public model's raw configs by component, its index and its scheduler's config."""
    return json.loads(_text(template))


def base_tokenizer(pad_token: str) -> Tokenizer:
    """Returns CLIP's tokenizer.

    Args:
      pad_token: what fills up a prompt: the end token, or "!" in SD 2.x and in SDXL's second.
    """
    files = {path.name: path.read_bytes() for path in _TOKENIZER.iterdir() if path.is_file()}
    special = json.loads(files[_SPECIAL]) | {"pad_token": pad_token}
    files[_SPECIAL] = (json.dumps(special, indent=2) + "\n").encode()
    return Tokenizer(files, str(_TOKENIZER))
