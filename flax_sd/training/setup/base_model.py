"""The model that a run starts from, pretrained or new, checked against the run's options."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from flax_sd.config import Config
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.errors import UserError
from flax_sd.models.vae import AutoencoderKL
from flax_sd.training.setup import new_tokens
from flax_sd.weights.family import DDPM, PROMPTED, ModelKind
from flax_sd.weights.model import Model
from flax_sd.weights.model_files import ModelFiles

logger = logging.getLogger("flax_sd")


def load_model(config: Config, compute_dtype: str) -> Model:
    """Loads the networks of the mode: fully trained ones in float32, others in `compute_dtype`.

    Raises:
      UserError: the model cannot be found, cannot be trained, or does not fit the options.
    """

    def load(files: ModelFiles, name: str, dtype: str, key: jax.Array | None) -> nnx.Module:
        return files.load(name, dtype) if key is None else files.random(name, dtype, key)

    return _make_model(config, compute_dtype, load)


def abstract_model(config: Config, compute_dtype: str) -> Model:
    """Returns the same model with shapes in place of weights, which are not read.

    Raises:
      UserError: as `load_model`, except for problems of the weights.
    """
    return _make_model(config, compute_dtype, lambda files, *named: files.abstract(*named[:2]))


def _make_model(
    config: Config,
    compute_dtype: str,
    make: Callable[[ModelFiles, str, str, jax.Array | None], nnx.Module],
) -> Model:
    """Returns the model; `make(files, name, dtype, key)` makes a network, new ones with a key."""
    own, mode = config.model, config.mode
    files = ModelFiles.find(own.path, own.revision, own.variant, vae=own.vae)
    files.check_kind(PROMPTED if mode.captioned else [DDPM])
    if mode.prompted and files.template == "sdxl_refiner":
        raise UserError(
            f"{own.path} is SDXL's refiner, which draws but cannot be trained: name an SDXL base "
            "model"
        )
    networks = {}
    for i, name in enumerate(_components(config, files.kind)):
        dtype = "float32" if name in config.fully_trained else compute_dtype
        random = name in own.from_scratch
        key = jax.random.fold_in(jax.random.key(config.seed), i) if random else None
        networks[name] = make(files, name, dtype, key)
    model = Model(files, networks, [], files.trained_scheduler(own))
    if mode.captioned:
        _check_fit(config, model)
        _warn_of_dropout(networks)
    else:
        _check_ddpm(config, networks["unet"], model.scheduler_config)
    if mode.prompted:
        for encoder, name in zip(files.kind.text_encoders, files.kind.tokenizers, strict=True):
            tokenizer = files.tokenizer(name).with_length(config.data.max_token_length)
            if config.tokens.names:
                tokenizer = new_tokens.begin(config.tokens, networks[encoder], tokenizer)
            model.tokenizers.append(tokenizer)
    return model


def _components(config: Config, kind: ModelKind) -> list[str]:
    """Returns the networks that the mode loads, in its order, with all text encoders."""
    if absent := {*config.lora_components, *config.fully_trained} - {*kind.networks}:
        raise UserError(
            f"train.{absent.pop()} is set, and {config.model.path} has one text encoder: leave "
            "the option out, or name an SDXL model"
        )
    return [
        name
        for part in config.mode.components
        for name in (kind.text_encoders if part == "text_encoder" else (part,))
    ]


def noise_schedule(model: Model) -> NoiseSchedule:
    """Returns the forward process that the checkpoint's scheduler describes."""
    return NoiseSchedule.from_config(model.scheduler_config)


def _warn_of_dropout(networks: Mapping[str, Any]) -> None:
    """Warns of dropout in a network's config: diffusers' scripts apply it, flax_sd does not."""
    for name, network in networks.items():
        field = "dropout" if name == "unet" else "attention_dropout"
        if rate := getattr(network.config, field, None):
            logger.warning("%s/config.json has %s %g: the run trains without it", name, field, rate)


def _check_ddpm(config: Config, unet: Any, scheduler: Mapping[str, Any]) -> None:
    """Raises UserError if the UNet cannot be trained on images of the config's size."""
    cfg, side, problems = unet.config, config.data.resolution, []
    if (cfg.in_channels, cfg.out_channels) != (3, 3):
        problems.append(
            f"the UNet has {cfg.in_channels} input and {cfg.out_channels} output channels: images "
            "have 3, and a learned variance is not supported"
        )
    if side % (steps := 2 ** (len(cfg.block_out_channels) - 1)):
        problems.append(f"data.resolution {side} is not a multiple of {steps}, as the UNet needs")
    if str(variance := scheduler.get("variance_type", "fixed_small")).startswith("learned"):
        problems.append(
            f"variance_type {variance} of the scheduler is not supported: use fixed_large"
        )
    if problems:
        raise UserError(f"{config.model.path}: {'; '.join(problems)}")


def _skipped_layers(config: Config, model: Model) -> Iterator[str]:
    """Yields what is wrong with `model.clip_skip` for the text encoders."""
    skip, kind = config.model.clip_skip, model.files.kind
    names = kind.text_encoders
    left = min(model.networks[name].config.num_hidden_layers for name in names)
    left -= kind.text_rule.skip
    if skip > left:
        owner = "the text encoder has" if len(names) == 1 else "of the text encoders can be skipped"
        yield f"model.clip_skip is {skip}, {owner} {left} layers"
    elif skip == left and "text_encoder" in config.lora_components:
        yield (
            f"model.clip_skip {skip} skips all layers of the text encoder, so train.text_encoder "
            "has nothing to train"
        )


def _check_fit(config: Config, model: Model) -> None:
    """Raises UserError if the components do not fit each other, the images or the options."""
    vae, side, step = model.networks["vae"], config.data.resolution, model.pixels_per_latent
    problems = model.misfits()
    if side % step:
        problems.append(f"data.resolution {side} is not a multiple of the VAE's {step}")
    elif config.data.buckets != "none" and (own := config.data.meant("bucket_step")) % step:
        problems.append(
            f"sides of buckets are multiples of {own}, which is not a multiple of the VAE's "
            f"{step}: set data.bucket_step"
        )
    if "vae" in config.fully_trained:
        if not isinstance(vae, AutoencoderKL):
            problems.append(
                "train.mode vae trains an AutoencoderKL, and this VAE is of another class"
            )
    else:
        problems += _skipped_layers(config, model)
    if problems:
        raise UserError(f"{config.model.path}: {'; '.join(problems)}")
