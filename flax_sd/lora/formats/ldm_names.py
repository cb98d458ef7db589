"""The original (LDM) names of a UNet's layers, which kohya's files for SDXL have."""

import re
from collections.abc import Iterable

from flax_sd.weights.ldm.renaming import Renaming
from flax_sd.weights.ldm.unet_names import Layout, unet_names

# The names of the public models; none has two meanings. The first is of Stable Diffusion 1.x and
# 2.x, the second of SDXL.
PUBLIC = (
    unet_names(Layout((2, 2, 2, 2), (False, True, True, True))),
    unet_names(Layout((2, 2, 2), (True, True, False))),
)
_KOHYA = re.compile(
    r"lora_unet_(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)_\d"
)


def unet_renaming(paths: Iterable[str]) -> Renaming:
    """Returns the original names of a UNet's layers.

    Args:
      paths: the dotted paths of all its layers.
    """
    return unet_names(Layout.of_diffusers(set(paths)))


def is_original(name: str) -> bool:
    """Tells whether a name or key of kohya's is of the UNet's layer under its original name."""
    return bool(_KOHYA.match(name))
