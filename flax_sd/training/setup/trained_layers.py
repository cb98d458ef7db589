"""Which weights the loss depends on."""

import re
from typing import Any

from flax_sd.config import Config

_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")


def reached(config: Config, component: str, network: Any, path: str) -> bool:
    """Whether the loss depends on what lies at a dotted path of a component.

    The last `model.clip_skip` layers of the text encoder have no part in it. They never have a
    gradient, so weight decay alone would change them; hence they are not trained.
    """
    found = _LAYER.match(path) if component == "text_encoder" else None
    return (
        found is None or int(found[1]) < network.config.num_hidden_layers - config.model.clip_skip
    )
