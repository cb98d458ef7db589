"""AutoencoderKL: pixels [b, h, w, 3] in [-1, 1] to latents [b, h/8, w/8, 4] and back.

Rombach et al. 2022 (arXiv 2112.10752), §3.1; names are those of diffusers' `AutoencoderKL`.
Latents here are raw: the caller multiplies them by `config.scaling_factor`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.models import layers
from flax_sd.models.config_json import (
    BLOCKS,
    Depth,
    Width,
    block_problems,
    diffusers_spelling,
    is_only,
    read_config,
)
from flax_sd.models.layers import Attention, Network

NORM_EPSILON = 1e-6  # everywhere in the VAE; the UNet's ResBlocks have 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderKLConfig:
    """The fields of a `vae/config.json` that shape the network; the defaults are diffusers' own.

    Raises UserError if fields do not fit each other.
    """

    in_channels: Width = 3
    out_channels: Width = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: Annotated[tuple[Width, ...], BLOCKS] = (64,)
    layers_per_block: Depth = 1
    act_fn: str = "silu"
    latent_channels: Width = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215  # makes the latents' variance one
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    # In SDXL's config; float16 weights are then decoded in float32. diffusers' default is true, and
    # its other pipelines do not read it: their configs, which lack it, are no reason to be slow.
    force_upcast: bool = False

    @classmethod
    def from_json(cls, raw: JsonObject, where: str = "vae/config.json") -> "AutoencoderKLConfig":
        """Reads diffusers' config. Raises UserError for what is not supported."""
        supported = {
            "down_block_types": {"DownEncoderBlock2D"},
            "up_block_types": {"UpDecoderBlock2D"},
            "act_fn": {"silu"},
        }
        raw = diffusers_spelling(raw)
        return read_config(cls, raw, UNSUPPORTED, where, choices=supported, alike=ALIKE)

    @property
    def pixels_per_latent(self) -> int:
        """Pixels a latent, along each side."""
        return 2 ** (len(self.block_out_channels) - 1)

    def __post_init__(self) -> None:
        problems = block_problems(self)
        if problems:
            raise UserError("\n".join(dict.fromkeys(problems)))


# What diffusers' class reads and this one does not: refused when it differs from the default there.
UNSUPPORTED: JsonObject = {"shift_factor": None, "latents_mean": None, "latents_std": None}
ALIKE: dict[str, Callable[[object], bool]] = {
    "shift_factor": lambda v: is_only(v, 0),
    "latents_mean": lambda v: is_only(v, 0),
    "latents_std": lambda v: is_only(v, 1),
}


class Moments(NamedTuple):
    """q(z | x) = N(mean, exp(logvar)), both [b, h, w, c] and unscaled."""

    mean: jax.Array
    logvar: jax.Array

    def sample(self, noise: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns mean + σ · noise."""
        return self.mean + jnp.exp(0.5 * self.logvar) * noise

    def kl(self) -> Float[Array, " b"]:
        """Returns KL(q ‖ N(0, I)) in nats, summed over each image's latents."""
        terms = jnp.square(self.mean) + jnp.exp(self.logvar) - 1 - self.logvar
        return 0.5 * jnp.sum(terms, axis=(1, 2, 3))


class ResnetBlock2D(nnx.Module):
    """y = skip(x) + conv₂(silu(norm₂(conv₁(silu(norm₁(x))))))."""

    def __init__(self, c_in: int, c_out: int, groups: int, *, rngs: nnx.Rngs):
        self.norm1 = layers.group_norm(c_in, groups, NORM_EPSILON, rngs=rngs)
        self.conv1 = layers.conv(c_in, c_out, rngs=rngs)
        self.norm2 = layers.group_norm(c_out, groups, NORM_EPSILON, rngs=rngs)
        self.conv2 = layers.conv(c_out, c_out, rngs=rngs)
        self.conv_shortcut = layers.conv(c_in, c_out, 1, rngs=rngs) if c_in != c_out else None

    def __call__(self, x: Float[Array, "b h w c_in"]) -> Float[Array, "b h w c_out"]:
        h = self.conv1(self.norm1(x, silu=True))
        h = self.conv2(self.norm2(h, silu=True))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class MidBlock(nnx.Module):
    """ResBlock, attention, ResBlock at the smallest size."""

    def __init__(self, channels: int, config: AutoencoderKLConfig, *, rngs: nnx.Rngs):
        groups = config.norm_num_groups
        self.resnets = nnx.List(
            [ResnetBlock2D(channels, channels, groups, rngs=rngs) for _ in "12"]
        )
        with_attention = config.mid_block_add_attention
        attention = functools.partial(Attention, channels, groups, NORM_EPSILON, rngs=rngs)
        self.attentions = nnx.List([attention()] if with_attention else [])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Downsample(nnx.Module):
    """Halves height and width; pads below and right only, unlike the UNet's."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = layers.conv(channels, channels, stride=2, padding=((0, 1), (0, 1)), rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles height and width by repetition, then convolves."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = layers.conv(channels, channels, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        return self.conv(layers.upsample_nearest(x, (2 * x.shape[1], 2 * x.shape[2])))


class DownEncoderBlock2D(nnx.Module):
    """ResBlocks at one size, then a step down unless it is the last."""

    def __init__(self, c_in: int, c_out: int, n: int, groups: int, last: bool, *, rngs: nnx.Rngs):
        widths = [c_in] + [c_out] * (n - 1)
        self.resnets = nnx.List([ResnetBlock2D(c, c_out, groups, rngs=rngs) for c in widths])
        self.downsamplers = nnx.List([] if last else [Downsample(c_out, rngs=rngs)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W C"]:
        for layer in [*self.resnets, *self.downsamplers]:
            x = layer(x)
        return x


class UpDecoderBlock2D(nnx.Module):
    """ResBlocks at one size, then a step up unless it is the last."""

    def __init__(self, c_in: int, c_out: int, n: int, groups: int, last: bool, *, rngs: nnx.Rngs):
        widths = [c_in] + [c_out] * (n - 1)
        self.resnets = nnx.List([ResnetBlock2D(c, c_out, groups, rngs=rngs) for c in widths])
        self.upsamplers = nnx.List([] if last else [Upsample(c_out, rngs=rngs)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W C"]:
        for layer in [*self.resnets, *self.upsamplers]:
            x = layer(x)
        return x


class Encoder(nnx.Module):
    """[b, h, w, 3] -> [b, h/8, w/8, 2 · latent channels]: mean and log variance side by side."""

    def __init__(self, config: AutoencoderKLConfig, *, rngs: nnx.Rngs):
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = layers.conv(config.in_channels, widths[0], rngs=rngs)
        pairs = list(zip((widths[0], *widths[:-1]), widths, strict=True))
        self.down_blocks = nnx.List(
            [
                DownEncoderBlock2D(
                    a, b, config.layers_per_block, groups, i == len(widths) - 1, rngs=rngs
                )
                for i, (a, b) in enumerate(pairs)
            ]
        )
        self.mid_block = MidBlock(widths[-1], config, rngs=rngs)
        self.conv_norm_out = layers.group_norm(widths[-1], groups, NORM_EPSILON, rngs=rngs)
        self.conv_out = layers.conv(widths[-1], 2 * config.latent_channels, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W C"]:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        return self.conv_out(self.conv_norm_out(x, silu=True))


class Decoder(nnx.Module):
    """[b, h/8, w/8, latent channels] -> [b, h, w, 3]."""

    def __init__(self, config: AutoencoderKLConfig, *, rngs: nnx.Rngs):
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = layers.conv(config.latent_channels, widths[0], rngs=rngs)
        self.mid_block = MidBlock(widths[0], config, rngs=rngs)
        pairs = list(zip((widths[0], *widths[:-1]), widths, strict=True))
        self.up_blocks = nnx.List(
            [
                UpDecoderBlock2D(
                    a, b, config.layers_per_block + 1, groups, i == len(widths) - 1, rngs=rngs
                )
                for i, (a, b) in enumerate(pairs)
            ]
        )
        self.conv_norm_out = layers.group_norm(widths[-1], groups, NORM_EPSILON, rngs=rngs)
        self.conv_out = layers.conv(widths[-1], config.out_channels, rngs=rngs)

    def __call__(self, z: Float[Array, "b h w c"]) -> Float[Array, "b H W C"]:
        z = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            z = block(z)
        return self.conv_out(self.conv_norm_out(z, silu=True))


class AutoencoderKL(Network):
    """The variational autoencoder of Stable Diffusion 1.x, 2.x and XL."""

    def __init__(self, config: AutoencoderKLConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        c = config.latent_channels
        quant, post_quant = config.use_quant_conv, config.use_post_quant_conv
        self.quant_conv = layers.conv(2 * c, 2 * c, 1, rngs=rngs) if quant else None
        self.post_quant_conv = layers.conv(c, c, 1, rngs=rngs) if post_quant else None

    def encode(self, pixels: Float[Array, "b h w c"]) -> Moments:
        """Encodes pixels in [-1, 1] to the moments of their latents; log variance in [-30, 20].

        With `force_upcast` a network in float16 computes in float32: SDXL's activations are too
        large for float16.
        """
        own = self._upcast()
        x = own.encoder(pixels.astype(own.encoder.conv_in.kernel.dtype))
        if own.quant_conv is not None:
            x = own.quant_conv(x)
        mean, logvar = jnp.split(x, 2, axis=-1)
        return Moments(mean, jnp.clip(logvar, -30.0, 20.0))

    def decode(self, latents: Float[Array, "b h w c"]) -> Float[Array, "b H W C"]:
        """Decodes raw latents to pixels, about [-1, 1], not clipped; in the dtype of `encode`."""
        own = self._upcast()
        z = latents.astype(own.decoder.conv_in.kernel.dtype)
        return own.decoder(z if own.post_quant_conv is None else own.post_quant_conv(z))

    def _upcast(self) -> "AutoencoderKL":
        """Returns the network that computes: itself, or a copy in float32."""
        if not self.config.force_upcast or self.encoder.conv_in.kernel.dtype != jnp.float16:
            return self
        graph, state = nnx.split(self)
        return nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), state))
