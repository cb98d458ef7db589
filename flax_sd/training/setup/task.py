"""The training task of a run: trained and frozen leaves, losses and encoders, from a model."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_sd.config import Config
from flax_sd.models.clip import NewTokens, TextStates
from flax_sd.models.text_encoders import encode_ids
from flax_sd.models.vae import Moments
from flax_sd.system.precision import resolve_dtype
from flax_sd.system.program import Program, jit, remembered
from flax_sd.training.losses import (
    DiffusionConfig,
    EncodedBatch,
    Loss,
    PixelBatch,
    Trees,
    diffusion_loss,
    pixel_loss,
    vae_loss,
)
from flax_sd.training.setup.base_model import noise_schedule
from flax_sd.training.setup.lora import NormLimit, add_adapters, constraint, dropout_rates
from flax_sd.training.setup.trained_layers import reached
from flax_sd.weights.family import ModelKind
from flax_sd.weights.model import Model


class TrainTask(NamedTuple):
    """The trained and the frozen leaves of each component, and the functions that read them.

    Attributes:
      eval_loss: the loss of evaluations: without the weights and dropout of the training loss.
      encode: jitted, (frozen, pixels, ids of each text encoder) -> batch of a step.
      moments: jitted, (frozen, pixels) -> Moments; None in modes vae and ddpm.
      text: jitted, (frozen, ids of each text encoder) -> the states that the UNet reads; None if a
        text encoder is trained, or there is none.
      constrain: changes the trained leaves after each update; None for nothing.
    """

    graphs: dict[str, nnx.GraphDef]
    params: dict[str, nnx.State]
    frozen: dict[str, nnx.State]
    loss: Loss
    eval_loss: Loss
    encode: Program
    moments: Program | None = None
    text: Program | None = None
    constrain: NormLimit | None = None


def make_task(config: Config, model: Model) -> TrainTask:
    """Adds the LoRA, divides each network into trained and frozen leaves, builds the losses.

    Raises:
      UserError: the LoRA of the config does not fit the networks.
    """
    networks: dict[str, Any] = dict(model.networks)
    if config.mode.adapters:
        add_adapters(config, networks, model.files.kind.text_rule)
    if "unet" in networks:
        networks["unet"].remat = config.train.remat
    picked = _trained_leaves(config, networks, model.files.kind)
    graphs, params, frozen = {}, {}, {}
    for name, network in networks.items():
        if name in picked:
            graphs[name], params[name], frozen[name] = nnx.split(network, picked[name], ...)
        else:
            graphs[name], frozen[name] = nnx.split(network)
    if not config.mode.denoises:
        loss = _vae_loss(config, networks["vae"], graphs)
        return TrainTask(graphs, params, frozen, loss, loss, _pixel_batch())
    options = DiffusionConfig(config.loss, config.timesteps, config.noise, dropout_rates(config))
    if config.mode.unconditional:
        dtype, schedule = _compute_dtype(config), noise_schedule(model)
        loss = pixel_loss(graphs, schedule, compute_dtype=dtype, dropout=True, cfg=options)
        eval_loss = pixel_loss(graphs, schedule, compute_dtype=dtype)
        return TrainTask(graphs, params, frozen, loss, eval_loss, _pixel_batch())
    kind, skip = model.files.kind, config.model.clip_skip
    make_loss = functools.partial(
        diffusion_loss,
        graphs,
        noise_schedule(model),
        scaling_factor=networks["vae"].config.scaling_factor,
        clip_skip=skip,
        text_encoders=kind.text_encoders,
        text_rule=kind.text_rule,
        compute_dtype=_compute_dtype(config),
    )
    loss = make_loss(cfg=options)
    encoders = _encoders(
        graphs, kind, skip, frozen_text=params.keys().isdisjoint(kind.text_encoders)
    )
    return TrainTask(
        graphs, params, frozen, loss, make_loss(), *encoders, constrain=constraint(config)
    )


def _compute_dtype(config: Config) -> jnp.dtype | None:
    """Returns the dtype that fully trained weights are cast to; LoRA leaves are not cast."""
    return jnp.dtype(resolve_dtype(config.compute_dtype)) if config.fully_trained else None


def _trained_leaves(
    config: Config, networks: dict[str, nnx.Module], kind: ModelKind
) -> dict[str, nnx.filterlib.Filter]:
    """Returns a filter for each trained component: its leaves that have a gradient."""
    picked: dict[str, nnx.filterlib.Filter] = dict.fromkeys(config.fully_trained, nnx.Param)
    if config.mode.adapters:
        picked = dict.fromkeys(config.lora_components, nnx.LoRAParam)
    if config.tokens.names:
        for name in kind.text_encoders:
            picked[name] = (nnx.LoRAParam, NewTokens)  # those that exist

    def has_gradient(name: str, path: tuple[Any, ...], _: Any) -> bool:
        dotted, skip = ".".join(map(str, path)), config.model.clip_skip
        return reached(networks[name], dotted, skip, kind.text_rule)

    return {
        name: nnx.All(kind, functools.partial(has_gradient, name)) for name, kind in picked.items()
    }


def _vae_loss(config: Config, vae: Any, graphs: dict[str, nnx.GraphDef]) -> Loss:
    return vae_loss(
        graphs,
        stride=vae.config.pixels_per_latent,
        latent_channels=vae.config.latent_channels,
        kl_weight=config.vae_loss.kl_weight,
        l1_weight=config.vae_loss.l1_weight,
        compute_dtype=_compute_dtype(config),
    )


@remembered
def _pixel_batch() -> Program:
    return jit(lambda frozen, pixels, ids: PixelBatch(pixels))


@remembered
def _encoders(
    graphs: dict[str, nnx.GraphDef], kind: ModelKind, clip_skip: int, *, frozen_text: bool
) -> tuple[Program, Program, Program | None]:
    """Returns `encode`, `moments` and `text` of a TrainTask."""

    def moments(frozen: Trees, pixels: jax.Array) -> Moments:
        return nnx.merge(graphs["vae"], frozen["vae"]).encode(pixels)

    def text(frozen: Trees, ids: tuple[jax.Array, ...]) -> TextStates:
        encoders = [nnx.merge(graphs[name], frozen[name]) for name in kind.text_encoders]
        return encode_ids(encoders, ids, clip_skip, kind.text_rule)

    def encode(frozen: Trees, pixels: jax.Array, ids: tuple[jax.Array, ...]) -> EncodedBatch:
        return EncodedBatch(moments(frozen, pixels), text(frozen, ids) if frozen_text else ids)

    return jit(encode), jit(moments), jit(text) if frozen_text else None


def trained_size(task: TrainTask) -> int:
    """Returns the number of trained parameters."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(task.params))
