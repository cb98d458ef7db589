"""Captions as they are in the files, and as each sample draws them."""

import itertools
import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int64

from flax_sd.config import DataConfig

WILDCARD = re.compile(r"\{([^{}]*\|[^{}]*)\}")  # {a|b|c}
DROPOUT_STREAM = 1  # keeps the draws of `drop_captions` apart from all others
# The counter keeps clear of what images.draw and batches.permutation take from the same key.
STREAM = [0, 0, 1, 0]


def has_random_captions(cfg: DataConfig) -> bool:
    """Tells whether captions have a random part."""
    return cfg.shuffle_tags or cfg.tag_dropout > 0 or cfg.wildcards


def fixed_caption(cfg: DataConfig, caption: str) -> str:
    """Returns a caption in its template, with all tags in order and the first choice of each
    wildcard."""
    shown = caption
    if cfg.wildcards:
        shown = WILDCARD.sub(lambda found: found[1].split("|")[0].strip(), shown)
    if _divided(cfg, shown):
        shown = _joined(cfg, itertools.chain(*_parts(cfg, shown)))
    return _finished(cfg, shown, written=caption)


def random_caption(cfg: DataConfig, caption: str, *, seed: int, sample: int) -> str:
    """Returns the random caption of sample number `sample` of the stream."""
    if not has_random_captions(cfg):
        return fixed_caption(cfg, caption)
    stream = np.random.Philox(key=[seed, sample], counter=STREAM)  # raw: alike in every NumPy
    shown = caption
    if cfg.wildcards:
        shown = WILDCARD.sub(lambda found: _choice(found[1], stream), shown)
    if cfg.shuffle_tags or cfg.tag_dropout or _divided(cfg, shown):
        first, free, last = _parts(cfg, shown)
        shown = _joined(cfg, [*first, *_varied(cfg, free, stream), *last])
    return _finished(cfg, shown, written=caption)


def drop_captions(
    captions: list[str], samples: Int64[np.ndarray, " b"], *, seed: int, share: float
) -> list[str]:
    """Empties a random share of the captions, drawn from (seed, sample number)."""
    if not share:
        return captions

    def dropped(sample: int) -> bool:
        stream = np.random.SeedSequence([seed, DROPOUT_STREAM, sample])
        return np.random.Generator(np.random.Philox(stream)).random() < share

    return ["" if dropped(n) else text for text, n in zip(captions, samples.tolist(), strict=True)]


def _finished(cfg: DataConfig, shown: str, *, written: str) -> str:
    """Puts a caption into the template, unless the file's caption was empty."""
    if cfg.group_separator and cfg.group_separator in shown:
        shown = _joined(cfg, shown.split(cfg.group_separator))
    return cfg.template.replace("{}", shown) if written else shown


def _choice(alternatives: str, stream: np.random.Philox) -> str:
    choices = alternatives.split("|")
    return choices[int(stream.random_raw()) % len(choices)].strip()


def _divided(cfg: DataConfig, caption: str) -> bool:
    return cfg.keep_separator is not None and cfg.keep_separator in caption


def _parts(cfg: DataConfig, caption: str) -> tuple[list[str], list[str], list[str]]:
    """Splits the tags into those kept at the start, the free ones, and those kept at the end.

    In a caption that is divided, places without a tag are left out, as in sd-scripts.
    """
    if not _divided(cfg, caption):
        tags = caption.split(cfg.tag_separator)
        return tags[: cfg.keep_tags], tags[cfg.keep_tags :], []
    texts = [text.split(cfg.tag_separator) for text in caption.split(cfg.keep_separator)]
    first, free, *last = ([tag for tag in tags if tag.strip()] for tags in texts)
    return first, free, [*itertools.chain(*last)]


def _varied(cfg: DataConfig, tags: list[str], stream: np.random.Philox) -> list[str]:
    """Drops some tags and shuffles the others."""
    if cfg.tag_dropout:
        share = cfg.tag_dropout * 2.0**64
        draws = stream.random_raw(len(tags))
        tags = [tag for tag, draw in zip(tags, draws, strict=True) if float(draw) >= share]
    if cfg.shuffle_tags:
        order = np.argsort(stream.random_raw(len(tags)), kind="stable")
        tags = [tags[i] for i in order]
    return tags


def _joined(cfg: DataConfig, tags: Iterable[str]) -> str:
    return (cfg.tag_separator.strip() + " ").join(tag.strip() for tag in tags)
