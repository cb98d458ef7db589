"""The header of a LoRA file, which user interfaces show, under the names of sd-scripts."""

import collections
import json
from collections.abc import Mapping

from flax_sd.config import Config
from flax_sd.data import Images
from flax_sd.models.tokenizer import TEXT
from flax_sd.weights.identity import display_name

MAX_TAGS = 1000  # the most common; sentences of thousands of captions would fill megabytes


def tag_frequency(images: Images) -> dict[str, str]:
    """Returns the number of images that have each tag, as {"pictures": {tag: count}}.

    data.tag_separator divides the captions, as they are trained on, into tags. Images of
    data.regularisation do not count. Empty if there are no captions.
    """
    counts = collections.Counter[str]()
    for i in range(len(images)):
        if not images.prior[i]:
            counts.update(_tags(images, i))
    if not counts:
        return {}
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_TAGS]
    return {"ss_tag_frequency": json.dumps({"pictures": dict(common)})}


def _tags(images: Images, i: int) -> set[str]:
    """Returns the tags of all captions of an image."""
    separator = images.cfg.tag_separator
    parts = (tag for text in images.captions(i) for tag in text.split(separator))
    return {tag.strip() for tag in parts} - {""}


def said_of_run(config: Config) -> dict[str, str]:
    """Returns the entries of a run's model, image size and hyper-parameters."""
    side, skip = config.data.resolution, config.model.clip_skip
    length = config.data.max_token_length
    values: Mapping[str, object] = {
        "ss_sd_model_name": display_name(config.model.path),
        "ss_resolution": (side, side),
        "ss_clip_skip": skip + 1 if skip else None,  # sd-scripts counts from 1, the last layer
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
    """Returns the entries of a file's title; bytes that are not text become ?."""
    text = name.encode("utf-8", "replace").decode()
    return {"ss_output_name": text, "modelspec.title": text}
