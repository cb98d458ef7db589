"""The weights that the loss depends on."""

import re
from typing import Any

from flax_sd.models.text_encoders import TextRule

_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")


def reached(network: Any, path: str, clip_skip: int, rule: TextRule) -> bool:
    """Tells if the loss depends on the weights at a dotted path of a network.

    It does not depend on the last layers of a text encoder that `model.clip_skip` and the family's
    rule leave out, nor on its last norm where that is not applied; but SDXL's pooled text does,
    which its second encoder makes. Without a gradient only weight decay would change them, so they
    are not trained.
    """
    if rule.pooled and hasattr(network, "text_projection"):
        return True
    if path.startswith("text_model.final_layer_norm"):
        return rule.normed
    found = _LAYER.match(path)
    used = network.config.num_hidden_layers - clip_skip - rule.skip if found else 0
    return found is None or int(found[1]) < used
