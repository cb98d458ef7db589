"""Captions as they are written in the files, and as each sample draws them."""

import re

import numpy as np

from flax_sd.config import DataConfig

WILDCARD = re.compile(r"\{([^{}]*\|[^{}]*)\}")  # {a|b|c}
# The counter keeps clear of what images.draw and batches.permutation take from the same key.
STREAM = [0, 0, 1, 0]


def vary(cfg: DataConfig) -> bool:
    """Says whether samples draw more captions than the files list."""
    return cfg.shuffle_tags or cfg.tag_dropout > 0 or cfg.wildcards


def plain(cfg: DataConfig, caption: str) -> str:
    """Returns a caption in its template, all tags in order and each wildcard at its first."""
    shown = caption
    if cfg.wildcards:
        shown = WILDCARD.sub(lambda found: found[1].split("|")[0].strip(), shown)
    return _in_template(cfg, shown, written=caption)


def drawn(cfg: DataConfig, caption: str, *, seed: int, sample: int) -> str:
    """Returns a caption as sample number `sample` of the stream sees it."""
    if not vary(cfg):
        return _in_template(cfg, caption, written=caption)
    stream = np.random.Philox(key=[seed, sample], counter=STREAM)  # raw: alike in every NumPy
    shown = caption
    if cfg.wildcards:
        shown = WILDCARD.sub(lambda found: _choice(found[1], stream), shown)
    if cfg.shuffle_tags or cfg.tag_dropout:
        shown = _tags(cfg, shown, stream)
    return _in_template(cfg, shown, written=caption)


def _in_template(cfg: DataConfig, shown: str, *, written: str) -> str:
    """What a caption has become, in the template unless nothing was written to begin with."""
    return cfg.template.replace("{}", shown) if written else shown


def _choice(alternatives: str, stream: np.random.Philox) -> str:
    choices = alternatives.split("|")
    return choices[int(stream.random_raw()) % len(choices)].strip()


def _tags(cfg: DataConfig, caption: str, stream: np.random.Philox) -> str:
    """Tags past the first `keep_tags`, some dropped and in a new order."""
    tags = [tag.strip() for tag in caption.split(cfg.tag_separator)]
    kept, rest = tags[: cfg.keep_tags], tags[cfg.keep_tags :]
    if cfg.tag_dropout:
        share = cfg.tag_dropout * 2.0**64
        draws = stream.random_raw(len(rest))
        rest = [tag for tag, draw in zip(rest, draws, strict=True) if float(draw) >= share]
    if cfg.shuffle_tags:
        order = np.argsort(stream.random_raw(len(rest)), kind="stable")
        rest = [rest[i] for i in order]
    joined = cfg.tag_separator.strip() + " "
    return joined.join([*kept, *rest])
