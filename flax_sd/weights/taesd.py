"""TAESD's own pair of files, `taesd_encoder` and `taesd_decoder`, under diffusers' names."""

from collections.abc import Mapping

import numpy as np


def from_original(
    encoder: Mapping[str, np.ndarray], decoder: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The tensors of diffusers' `AutoencoderTiny` out of the two original files.

    Both are numbered torch sequences (`0.weight`, `1.conv.0.weight`); the decoder's begins with a
    clamp, which diffusers applies outside of it, so that its numbers there are one less.
    Reference: taesd.py in https://github.com/madebyollin/taesd.
    """
    tensors = {f"encoder.layers.{name}": tensor for name, tensor in encoder.items()}
    for name, tensor in decoder.items():
        number, rest = name.split(".", 1)
        tensors[f"decoder.layers.{int(number) - 1}.{rest}"] = tensor
    return tensors
