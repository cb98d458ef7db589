"""The weights that the loss depends on."""

import re
from typing import Any

from flax_sd.config import Config

_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")


def reached(config: Config, component: str, network: Any, path: str) -> bool:
    """Tells if the loss depends on the weights at a dotted path of a component.

    It does not depend on the last `model.clip_skip` layers of the text encoder. Without a gradient
    only weight decay would change them, so they are not trained.
    """
    found = _LAYER.match(path) if component == "text_encoder" else None
    return (
        found is None or int(found[1]) < network.config.num_hidden_layers - config.model.clip_skip
    )
