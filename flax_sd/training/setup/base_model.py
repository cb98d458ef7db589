"""The parts of a model that a training run needs, loaded or new."""

import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from flax_sd.config import Config
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.errors import UserError
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.models.vae import AutoencoderKL
from flax_sd.training.setup import new_tokens
from flax_sd.weights import hub
from flax_sd.weights import networks as components
from flax_sd.weights.fill import as_dtype
from flax_sd.weights.networks import find_vae, scheduler_of, stride

logger = logging.getLogger("flax_sd")


class Parts(NamedTuple):
    """Networks by component name: modes vae and ddpm have their own alone, and no tokenizer.

    Attributes:
      folder: the model's.
      vae_folder: where the VAE's config.json and tensors lie, which `model.vae` may change.
    """

    folder: pathlib.Path
    vae_folder: pathlib.Path
    networks: dict[str, Any]
    tokenizer: Tokenizer | None
    scheduler_config: dict[str, Any]

    def component_folder(self, name: str) -> pathlib.Path:
        """Where a component's config.json and tensors lie."""
        return self.vae_folder if name == "vae" else self.folder / name


def load_parts(config: Config, compute_dtype: str) -> Parts:
    """Loads what the mode needs; what is trained whole is float32, the rest in `compute_dtype`.

    Raises:
      UserError: the model cannot be found, is none that can be trained, or does not fit.
    """

    def load(parent: pathlib.Path, own: str, dtype: str, key: jax.Array | None) -> Any:
        if key is not None:
            return components.random_network(parent, own, key, dtype)
        return components.load_network(parent, own, dtype, config.model.variant)

    return _make_parts(config, compute_dtype, load)


def abstract_parts(config: Config, compute_dtype: str) -> Parts:
    """The same with shapes in place of weights, which are not read.

    Raises:
      UserError: as `load_parts`, but for what is wrong with the weights.
    """

    def shapes(parent: pathlib.Path, own: str, dtype: str, _: jax.Array | None) -> Any:
        raw, target = components.read_component_config(parent, own), as_dtype(dtype)
        graph, state = nnx.split(components.abstract_network(raw, str(parent / own)))
        typed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, target), state)
        return nnx.merge(graph, typed)

    return _make_parts(config, compute_dtype, shapes)


def _make_parts(
    config: Config,
    compute_dtype: str,
    make: Callable[[pathlib.Path, str, str, jax.Array | None], Any],
) -> Parts:
    """The parts, each network by `make(folder, component, dtype, key if it starts at random)`."""
    model, mode = config.model, config.mode
    folder = hub.resolve(model.path, model.revision, model.variant)
    components.check_kind(folder, components.PIPELINE if mode.captioned else components.DDPM)
    vae = folder / "vae" if model.vae is None else find_vae(model.vae, model.variant)
    networks = {}
    for i, name in enumerate(mode.components):
        dtype = "float32" if name in config.fully_trained else compute_dtype
        parent, own = (vae.parent, vae.name) if name == "vae" else (folder, name)
        random = name in model.from_scratch
        key = jax.random.fold_in(jax.random.key(config.seed), i) if random else None
        networks[name] = make(parent, own, dtype, key)
    scheduler = scheduler_of(folder, model)
    if mode.captioned:
        _check_fit(config, networks)
        _say_dropout(networks)
    else:
        _check_ddpm(config, networks["unet"], scheduler)
    tokenizer = None
    if mode.prompted:
        tokenizer = Tokenizer.load(folder / "tokenizer").with_length(config.data.max_token_length)
        if config.tokens.names:
            tokenizer = new_tokens.begin(config.tokens, networks["text_encoder"], tokenizer)
    return Parts(folder, vae, networks, tokenizer, scheduler)


def noise_schedule(parts: Parts) -> NoiseSchedule:
    """The forward process that the checkpoint's scheduler describes."""
    return NoiseSchedule.from_config(parts.scheduler_config)


def _say_dropout(networks: Mapping[str, Any]) -> None:
    """Warns where a config drops in training, which diffusers' scripts do and this one does not."""
    for part, field in (("unet", "dropout"), ("text_encoder", "attention_dropout")):
        rate = getattr(networks[part].config, field, None) if part in networks else None
        if rate:
            logger.warning("%s/config.json has %s %g: it is trained without", part, field, rate)


def _check_ddpm(config: Config, unet: Any, scheduler: Mapping[str, Any]) -> None:
    """Raises UserError if the network cannot be trained on pictures of the config's size."""
    cfg, side, problems = unet.config, config.data.resolution, []
    if (cfg.in_channels, cfg.out_channels) != (3, 3):
        problems.append(
            f"the UNet reads {cfg.in_channels} channels and puts out {cfg.out_channels}: pictures "
            "have 3, and a learned variance is not trained"
        )
    if side % (steps := 2 ** (len(cfg.block_out_channels) - 1)):
        problems.append(f"data.resolution {side} is not a multiple of {steps}, as the UNet's steps")
    if str(variance := scheduler.get("variance_type", "fixed_small")).startswith("learned"):
        problems.append(f"variance_type {variance} of the scheduler is not trained: fixed_large is")
    if problems:
        raise UserError(f"{config.model.path}: {'; '.join(problems)}")


def _check_fit(config: Config, networks: Mapping[str, Any]) -> None:
    """Raises UserError if the parts do not fit each other or the pictures."""
    vae, problems = networks["vae"], []
    side = config.data.resolution
    if side % stride(vae):
        problems.append(f"data.resolution {side} is not a multiple of the VAE's {stride(vae)}")
    elif config.data.buckets != "none" and (step := config.data.meant("bucket_step")) % stride(vae):
        problems.append(
            f"sides of buckets are multiples of {step}, which is no multiple of the VAE's "
            f"{stride(vae)}: data.bucket_step sets it"
        )
    if "vae" in config.fully_trained:
        if not isinstance(vae, AutoencoderKL):
            problems.append("train.mode vae trains an AutoencoderKL, and this is another class")
    else:
        unet, text = networks["unet"].config, networks["text_encoder"].config
        if unet.in_channels != vae.config.latent_channels:
            problems.append(
                f"the UNet reads {unet.in_channels} channels, the VAE makes "
                f"{vae.config.latent_channels}"
            )
        if unet.cross_attention_dim != text.hidden_size:
            problems.append(
                f"the UNet reads text {unet.cross_attention_dim} wide, the text encoder's is "
                f"{text.hidden_size}"
            )
        skips_all = config.model.clip_skip == text.num_hidden_layers
        if config.model.clip_skip > text.num_hidden_layers:
            problems.append(
                f"model.clip_skip is {config.model.clip_skip}, the text encoder has "
                f"{text.num_hidden_layers} layers"
            )
        elif skips_all and "text_encoder" in config.lora_components:
            problems.append(
                f"model.clip_skip {config.model.clip_skip} leaves out all layers of the text "
                "encoder, so that train.text_encoder has nothing to train"
            )
    if problems:
        raise UserError(f"{config.model.path}: {'; '.join(problems)}")
