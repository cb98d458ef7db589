"""Splits a set by image content, so that each image stays on its side for good."""

import math

from flax_sd.config import DataConfig
from flax_sd.data.dataset import Images
from flax_sd.errors import UserError


def split(images: Images, share: float, held_out: DataConfig) -> tuple[Images, Images]:
    """Holds out about `share` of the images: those whose place in (0, 1) is below it.

    The place is a hash of what an image shows. So other files, their number, names, order and
    captions decide nothing, and images that show the same are never on both sides.

    Args:
      held_out: the options of those that are.

    Returns:
      The images to train on and those held out.

    Raises:
      UserError: one side would be empty.
    """
    places = [place(seen.shows) for seen in images.seen]
    own = [i for i, prior in enumerate(images.prior) if not prior]
    if len({places[i] for i in own}) == 1:
        raise UserError(
            f"data.held_out_share {share:g}: {images.cfg.path} has one image, or copies of "
            "one, and one image cannot be divided: add others, or name some with data.held_out"
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
            f"images of {images.cfg.path} would be held out; {how}"
        )
    out = set(held)
    train = images.subset([i for i in range(len(places)) if i not in out], images.cfg)
    train.bad, train.unused = images.bad, images.unused  # of the folder as a whole
    return train, images.subset(held, held_out)


def place(shows: str) -> float:
    """Returns an image's place in [0, 1), from `Seen.shows`, a hexadecimal hash of its content."""
    return int(shows[:13], 16) / 16**13
