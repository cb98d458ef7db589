"""A set of pictures divided in two by what they show, so that each stays on its side for good."""

import math

from flax_sd.config import DataConfig
from flax_sd.data.dataset import Pictures
from flax_sd.errors import UserError


def split(pictures: Pictures, share: float, held_out: DataConfig) -> tuple[Pictures, Pictures]:
    """About `share` of the pictures are held out: those whose place in (0, 1) is below it.

    The place is a hash of what a picture shows. So other files, their number, names, order and
    captions decide nothing, and pictures that show the same are never on both sides.

    Args:
      held_out: the options of those that are.

    Returns:
      The pictures to train on and those held out.

    Raises:
      UserError: one side would be empty.
    """
    places = [place(seen.shows) for seen in pictures.seen]
    own = [i for i, prior in enumerate(pictures.prior) if not prior]
    if len({places[i] for i in own}) == 1:
        raise UserError(
            f"data.held_out_share {share:g}: {pictures.cfg.path} has one picture, or copies of "
            "one, and one picture cannot be divided: add others, or name some with data.held_out"
        )
    held = [i for i in own if places[i] < share]
    if len(held) in (0, len(own)):
        least, all_but = min(places[i] for i in own), max(places[i] for i in own)
        how = (
            f"from {math.ceil(least * 1000 + 1e-9) / 1000:g} on one is"
            if not held
            else f"below {all_but:.3g} one is not"
        )
        raise UserError(
            f"data.held_out_share {share:g}: {'none' if not held else 'all'} of the {len(own)} "
            f"pictures of {pictures.cfg.path} would be held out; {how}"
        )
    out = set(held)
    train = pictures.subset([i for i in range(len(places)) if i not in out], pictures.cfg)
    train.bad, train.unused = pictures.bad, pictures.unused  # of the folder as a whole
    return train, pictures.subset(held, held_out)


def place(shows: str) -> float:
    """Where a picture is in [0, 1), by what it shows (`Seen.shows`, a hash in hexadecimal)."""
    return int(shows[:13], 16) / 16**13
