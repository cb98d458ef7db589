"""The work that is measured, done by flax_sd. Each case returns a call that runs it once."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_sd import StableDiffusion, components
from flax_sd.config import OptimConfig
from flax_sd.lora.inject import inject
from flax_sd.losses import EncodedBatch, diffusion_loss
from flax_sd.models.vae import Moments
from flax_sd.optim import make_optimizer
from flax_sd.schedule import NoiseSchedule
from flax_sd.train_step import init_state, make_train_step
from sides.inputs import LORA_RANK, PROMPT, STEPS, TOKENS, Run, normal, token_ids


def unet(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """A forward pass at the size that the UNet was trained on."""
    network = components.load_network(folder, "unet", dtype)
    side, width = network.config.sample_size, network.config.cross_attention_dim
    graph, state = nnx.split(network)
    inputs = (
        jnp.asarray(normal(0, batch, side, side, 4)),
        jnp.full(batch, 500),
        jnp.asarray(normal(1, batch, TOKENS, width)),
    )
    forward = jax.jit(lambda state, *inputs: nnx.merge(graph, state)(*inputs))
    return lambda: np.asarray(forward(state, *inputs), np.float32)


def vae(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """Decoding."""
    network = components.load_network(folder, "vae", dtype)
    side = network.config.sample_size // 8
    graph, state = nnx.split(network)
    latents = jnp.asarray(normal(0, batch, side, side, 4))
    decode = jax.jit(lambda state, x: nnx.merge(graph, state).decode(x))
    return lambda: np.asarray(decode(state, latents), np.float32)


def text(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """The text encoder over 77 tokens."""
    graph, state = nnx.split(components.load_network(folder, "text_encoder", dtype))
    ids = jnp.asarray(token_ids(batch))
    encode = jax.jit(lambda state, ids: nnx.merge(graph, state)(ids).text)
    return lambda: np.asarray(encode(state, ids), np.float32)


def lora_step(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """A training step of a LoRA on attention, from latents and text that were computed before."""
    network = components.load_network(folder, "unet", dtype)
    side, width = network.config.sample_size, network.config.cross_attention_dim
    inject(network, "attention", LORA_RANK, LORA_RANK, "gaussian", jax.random.key(0))
    graph, params, frozen = nnx.split(network, nnx.LoRAParam, ...)
    loss = diffusion_loss({"unet": graph}, NoiseSchedule.from_config({}), scaling_factor=1.0)
    tx = make_optimizer(OptimConfig(), 1000)
    step = make_train_step(loss, tx)
    state = init_state({"unet": params}, tx, 0, scaled=False)
    latents = jnp.asarray(normal(0, batch, side, side, 4))
    batch_of = EncodedBatch(
        Moments(latents, jnp.full_like(latents, -30.0)),  # log variance: as good as none
        jnp.asarray(normal(1, batch, TOKENS, width)),
    )

    def run() -> np.ndarray:
        nonlocal state
        state, metrics = step(state, {"unet": frozen}, batch_of)
        return np.asarray(metrics.loss)

    return run


def txt2img(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """Pictures from prompts: DDIM, guidance 7.5, decoded."""
    sd = StableDiffusion.load(folder, dtype)
    given: dict[str, Any] = {"num_inference_steps": STEPS, "sampler": "ddim", "output": "float"}
    return lambda: sd.generate([PROMPT] * batch, seed=0, **given)
