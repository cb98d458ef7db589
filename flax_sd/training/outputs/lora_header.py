"""What user interfaces show of a LoRA, in the header of its file, under the names of sd-scripts."""

import collections
import json
from collections.abc import Mapping
from typing import Any

from flax_sd.config import Config
from flax_sd.data import Pictures
from flax_sd.models.tokenizer import TEXT
from flax_sd.weights.identity import display_name

MOST_TAGS = 1000  # the commonest; whole sentences of many thousand captions would fill megabytes


def tag_frequency(pictures: Pictures) -> dict[str, str]:
    """Returns how many of the pictures have each tag, as {"pictures": {tag: count}}.

    Tags are what data.tag_separator divides captions into, as they are trained on. Pictures of
    data.regularisation do not count. Empty where there are no captions.
    """
    counts = collections.Counter[str]()
    for i in range(len(pictures)):
        if not pictures.prior[i]:
            counts.update(_tags(pictures, i))
    if not counts:
        return {}
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_TAGS]
    return {"ss_tag_frequency": json.dumps({"pictures": dict(common)})}


def _tags(pictures: Pictures, i: int) -> set[str]:
    """Returns the tags of a picture; of several captions, all."""
    separator = pictures.cfg.tag_separator
    parts = (tag for text in pictures.captions(i) for tag in text.split(separator))
    return {tag.strip() for tag in parts} - {""}


def said_of_run(config: Config) -> dict[str, str]:
    """Returns the model, the pictures' size and the hyper-parameters of a run."""
    side, skip = config.data.resolution, config.model.clip_skip
    length = config.data.max_token_length
    values: Mapping[str, Any] = {
        "ss_sd_model_name": display_name(config.model.path),
        "ss_resolution": (side, side),
        "ss_clip_skip": skip + 1 if skip else None,  # theirs counts from the last layer, as 1
        "ss_max_token_length": length if length > TEXT else None,
        "ss_learning_rate": config.optim.learning_rate,
        "ss_optimizer": config.optim.method,
        "ss_lr_scheduler": config.optim.schedule,
        "ss_max_train_steps": config.train.steps,
        "ss_total_batch_size": config.train.batch_size,
        "ss_seed": config.seed,
    }
    return {name: str(value) for name, value in values.items()}


def title(name: str) -> dict[str, str]:
    """Returns the entries by which a file is called in lists; bytes that are no text become ?."""
    text = name.encode("utf-8", "replace").decode()
    return {"ss_output_name": text, "modelspec.title": text}
