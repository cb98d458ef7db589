import diffusers
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from PIL import Image

from flax_sd.models.tiny_vae import AutoencoderTiny, AutoencoderTinyConfig
from flax_sd.weights.fill import fill
from flax_sd.weights.networks import OneKey
from flax_sd.weights.safetensors import TensorFile
from tests import parity


def from_original(encoder, decoder):
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


def psnr(a, b):
    """In dB, of pixels in [-1, 1]."""
    return 10 * np.log10(4 / np.mean(np.square(np.clip(a, -1, 1) - b)))


def test_real_weights_give_back_an_image_as_well_as_diffusers(test_data):
    encoder, decoder = (
        TensorFile(test_data / "taesd" / f"taesd_{part}.safetensors")
        for part in ("encoder", "decoder")
    )
    tensors = from_original(
        {key: encoder[key] for key in encoder.keys()}, {key: decoder[key] for key in decoder.keys()}
    )
    config = AutoencoderTinyConfig()
    abstract = nnx.eval_shape(lambda: AutoencoderTiny(config, rngs=OneKey()))
    ours = fill(abstract, tensors, "float32", "taesd")
    theirs = diffusers.AutoencoderTiny().eval()
    theirs.load_state_dict(
        {key: torch.from_numpy(tensor.astype(np.float32)) for key, tensor in tensors.items()}
    )
    with Image.open(test_data / "tuxemon" / "agnite.png") as file:
        sprite = Image.new("RGBA", file.size, "white")
        sprite.alpha_composite(file.convert("RGBA"))
    image = sprite.convert("RGB").resize((192, 128), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, np.float32)[None] / 127.5 - 1
    latents = ours.encode(jnp.asarray(pixels)).mean
    again = ours.decode(latents)
    with torch.no_grad():
        their_latents = theirs.encode(parity.to_torch(pixels)).latents
        their_again = theirs.decode(their_latents).sample
    parity.assert_close(latents, their_latents, parity.NETWORK)
    parity.assert_close(again, their_again, parity.NETWORK)
    assert psnr(again, pixels) > 20
    assert abs(psnr(again, pixels) - psnr(parity.from_torch(their_again), pixels)) < 1e-3
