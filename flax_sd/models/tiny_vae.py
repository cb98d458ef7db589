"""AutoencoderTiny (TAESD): an autoencoder of 2.4 M parameters for Stable Diffusion's latents.

Ollin Boer Bohan's distillation (https://github.com/madebyollin/taesd); names are those of
diffusers' `AutoencoderTiny`. Its latents have unit variance already: `scaling_factor` is 1.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Float

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.models import layers
from flax_sd.models.config_json import BLOCKS, Width, diffusers_spelling, is_only, read_config
from flax_sd.models.layers import Network
from flax_sd.models.vae import Moments

Widths = Annotated[tuple[Width, ...], BLOCKS]
Counts = Annotated[tuple[Annotated[int, pydantic.Field(ge=0, le=100)], ...], BLOCKS]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderTinyConfig:
    """The fields of a `vae/config.json` that shape the network; diffusers' defaults.

    Raises UserError if fields do not fit each other.
    """

    in_channels: Width = 3
    out_channels: Width = 3
    encoder_block_out_channels: Widths = (64, 64, 64, 64)
    decoder_block_out_channels: Widths = (64, 64, 64, 64)
    act_fn: str = "relu"
    upsample_fn: str = "nearest"
    latent_channels: Width = 4
    upsampling_scaling_factor: Annotated[int, pydantic.Field(ge=1, le=16)] = 2
    num_encoder_blocks: Counts = (1, 3, 3, 3)
    num_decoder_blocks: Counts = (3, 3, 3, 1)
    scaling_factor: float = 1.0

    @classmethod
    def from_json(cls, raw: JsonObject, where: str = "vae/config.json") -> "AutoencoderTinyConfig":
        """Reads diffusers' config. Raises UserError that names every field not supported."""
        choices = {"act_fn": ("relu",), "upsample_fn": ("nearest",)}
        raw = diffusers_spelling(raw)
        if raw.get("upsample_fn") == "nearest-exact":
            raw["upsample_fn"] = "nearest"  # which it is where every pixel is repeated
        factor = raw.get("upsampling_scaling_factor")
        if isinstance(factor, float) and factor.is_integer():
            raw["upsampling_scaling_factor"] = int(factor)
        return read_config(cls, raw, UNSUPPORTED, where, choices=choices, alike=ALIKE)

    @property
    def pixels_per_latent(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** (len(self.decoder_block_out_channels) - 1)

    def __post_init__(self) -> None:
        problems = []
        for part in ("encoder", "decoder"):
            widths = getattr(self, f"{part}_block_out_channels")
            if len(widths) != len(getattr(self, f"num_{part}_blocks")):
                problems.append(
                    f"{part}_block_out_channels and num_{part}_blocks are not equally long"
                )
            if len(set(widths)) != 1:  # no layer of the original changes the width
                problems.append(f"{part}_block_out_channels {list(widths)} are not all the same")
        if problems:
            raise UserError("\n".join(problems))


# What diffusers' class reads besides, with its default (`AutoencoderTiny.__init__`, 0.42.1).
UNSUPPORTED: JsonObject = {"shift_factor": 0.0}
ALIKE: dict[str, Callable[[object], bool]] = {"shift_factor": lambda v: is_only(v, 0)}


class ReLU(nnx.Module):
    """max(x, 0): a layer of its own because it has a number in torch's sequence."""

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return jax.nn.relu(x)


class Upsample(nnx.Module):
    """Repeats each pixel `factor` times along height and width."""

    def __init__(self, factor: int):
        self.factor = factor

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        return layers.upsample_nearest(x, (x.shape[1] * self.factor, x.shape[2] * self.factor))


class AutoencoderTinyBlock(nnx.Module):
    """relu(x + conv(relu(conv(relu(conv(x))))))."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        convs = [layers.conv(channels, channels, rngs=rngs) for _ in range(3)]
        self.conv = nnx.List([convs[0], ReLU(), convs[1], ReLU(), convs[2]])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return jax.nn.relu(x + _sequence(self.conv, x))


class EncoderTiny(nnx.Module):
    """Blocks at each size, and a strided convolution, which pads all around, between sizes."""

    def __init__(self, config: AutoencoderTinyConfig, *, rngs: nnx.Rngs):
        width, sequence = config.encoder_block_out_channels[0], []
        for stage, blocks in enumerate(config.num_encoder_blocks):
            if stage == 0:
                sequence.append(layers.conv(config.in_channels, width, rngs=rngs))
            else:
                sequence.append(layers.conv(width, width, stride=2, bias=False, rngs=rngs))
            sequence += [AutoencoderTinyBlock(width, rngs=rngs) for _ in range(blocks)]
        sequence.append(layers.conv(width, config.latent_channels, rngs=rngs))
        self.layers = nnx.List(sequence)

    def __call__(self, pixels: Float[Array, "b h w c"]) -> Float[Array, "b H W C"]:
        return _sequence(self.layers, (pixels + 1) / 2)  # TAESD's own pixels are in [0, 1]


class DecoderTiny(nnx.Module):
    """Blocks at each size, and an enlargement and a convolution between sizes."""

    def __init__(self, config: AutoencoderTinyConfig, *, rngs: nnx.Rngs):
        width = config.decoder_block_out_channels[0]
        sequence = [layers.conv(config.latent_channels, width, rngs=rngs), ReLU()]
        last = len(config.num_decoder_blocks) - 1
        for stage, blocks in enumerate(config.num_decoder_blocks):
            sequence += [AutoencoderTinyBlock(width, rngs=rngs) for _ in range(blocks)]
            if stage != last:
                sequence.append(Upsample(config.upsampling_scaling_factor))
                sequence.append(layers.conv(width, width, bias=False, rngs=rngs))
        sequence.append(layers.conv(width, config.out_channels, rngs=rngs))
        self.layers = nnx.List(sequence)

    def __call__(self, latents: Float[Array, "b h w c"]) -> Float[Array, "b H W C"]:
        return _sequence(self.layers, 3 * jnp.tanh(latents / 3)) * 2 - 1  # outliers are clamped


class AutoencoderTiny(Network):
    """TAESD with the interface of AutoencoderKL: its moments have no variance."""

    def __init__(self, config: AutoencoderTinyConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = EncoderTiny(config, rngs=rngs)
        self.decoder = DecoderTiny(config, rngs=rngs)

    def encode(self, pixels: Float[Array, "b h w c"]) -> Moments:
        """Encodes pixels in [-1, 1]: `mean` is the latents, the log variance is -inf."""
        mean = self.encoder(pixels.astype(_dtype(self.encoder)))
        return Moments(mean, jnp.full_like(mean, -jnp.inf))

    def decode(self, latents: Float[Array, "b h w c"]) -> Float[Array, "b H W C"]:
        """Decodes latents to pixels, about [-1, 1]; not clipped."""
        return self.decoder(latents.astype(_dtype(self.decoder)))


def _sequence(sequence: nnx.List, x: Array) -> Array:
    for layer in sequence:
        x = layer(x)
    return x


def _dtype(module: nnx.Module) -> jnp.dtype:
    """Returns the dtype of the parameters; this network has no norms."""
    return jax.tree.leaves(nnx.state(module))[0].dtype
