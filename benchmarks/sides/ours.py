"""The work that is measured, done by flax_sd. Each case returns a call that runs it once."""

import itertools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_sd import StableDiffusion, compiler, components
from flax_sd.compiler import jit
from flax_sd.config import Config, DataConfig, OptimConfig
from flax_sd.data import batches, open_pictures
from flax_sd.lora.inject import inject
from flax_sd.losses import EncodedBatch, diffusion_loss
from flax_sd.models.vae import Moments
from flax_sd.optim import make_optimizer
from flax_sd.runs.objective import make_objective
from flax_sd.runs.parts import load_parts, stride
from flax_sd.schedule import NoiseSchedule
from flax_sd.train_step import init_state, make_train_step
from sides.inputs import (
    LORA_RANK,
    PICTURES_AT_ONCE,
    PROMPT,
    RESOLUTION,
    STEPS,
    TOKENS,
    Run,
    normal,
    token_ids,
)

compiler.set_up()  # as the commands do


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
    forward = jit(lambda state, *inputs: nnx.merge(graph, state)(*inputs))
    return lambda: np.asarray(forward(state, *inputs), np.float32)


def vae(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """Decoding."""
    network = components.load_network(folder, "vae", dtype)
    side = network.config.sample_size // 8
    graph, state = nnx.split(network)
    latents = jnp.asarray(normal(0, batch, side, side, 4))
    decode = jit(lambda state, x: nnx.merge(graph, state).decode(x))
    return lambda: np.asarray(decode(state, latents), np.float32)


def text(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """The text encoder over 77 tokens."""
    graph, state = nnx.split(components.load_network(folder, "text_encoder", dtype))
    ids = jnp.asarray(token_ids(batch))
    encode = jit(lambda state, ids: nnx.merge(graph, state)(ids).text)
    return lambda: np.asarray(encode(state, ids), np.float32)


def lora_step(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """A training step of a LoRA on attention, from latents and text that were computed before."""
    step, state, frozen, batch_of = _lora_step(folder, batch, dtype)

    def run() -> np.ndarray:
        nonlocal state
        state, metrics = step(state, frozen, batch_of)
        return np.asarray(metrics.loss)

    return run


def first_step(folder: pathlib.Path, batch: int, dtype: str) -> dict[str, float]:
    """Does the first such step; returns the seconds of what went before it."""
    step, *arguments = _lora_step(folder, batch, dtype)
    start = time.perf_counter()
    lowered = step.lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    float(compiled(*arguments)[1].loss)
    return {"lower": traced - start, "compile": done - traced}


def _lora_step(folder: pathlib.Path, batch: int, dtype: str) -> tuple[Any, Any, Any, Any]:
    """The jitted step and its arguments."""
    network = components.load_network(folder, "unet", dtype)
    side, width = network.config.sample_size, network.config.cross_attention_dim
    inject(network, "attention", LORA_RANK, LORA_RANK, "gaussian", jax.random.key(0))
    graph, params, frozen = nnx.split(network, nnx.LoRAParam, ...)
    loss = diffusion_loss({"unet": graph}, NoiseSchedule.from_config({}), scaling_factor=1.0)
    tx = make_optimizer(OptimConfig(), 1000)
    latents = jnp.asarray(normal(0, batch, side, side, 4))
    batch_of = EncodedBatch(
        Moments(latents, jnp.full_like(latents, -30.0)),  # log variance: as good as none
        jnp.asarray(normal(1, batch, TOKENS, width)),
    )
    state = init_state({"unet": params}, tx, 0, scaled=False)
    return make_train_step(loss, tx), state, {"unet": frozen}, batch_of


def whole_step(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """The same from pixels and token ids: VAE and text encoder run in front of the step."""
    given = Config.model_validate({"model": {"path": str(folder)}, "compute_dtype": dtype})
    parts = load_parts(given, dtype)
    objective = make_objective(given, parts)
    side = parts.networks["unet"].config.sample_size * stride(parts.networks["vae"])
    tx = make_optimizer(given.optim, 1000)
    step = make_train_step(objective.loss, tx)
    state = init_state(objective.params, tx, 0, scaled=False)
    pixels, ids = np.tanh(normal(0, batch, side, side, 3)), token_ids(batch)

    def run() -> np.ndarray:
        nonlocal state
        encoded = objective.encode(objective.frozen, jnp.asarray(pixels), jnp.asarray(ids))
        state, metrics = step(state, objective.frozen, encoded)
        return np.asarray(metrics.loss)

    return run


def txt2img(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """Pictures from prompts: DDIM, guidance 7.5, decoded."""
    sd = StableDiffusion.load(folder, dtype)
    given: dict[str, Any] = {"num_inference_steps": STEPS, "sampler": "ddim", "output": "float"}
    return lambda: sd.generate([PROMPT] * batch, seed=0, **given)


def pictures(folder: pathlib.Path, workers: int, dtype: str) -> Run:
    """All pictures of a folder once, decoded and transformed by `workers` threads."""
    given = {"path": str(folder), "resolution": RESOLUTION, "center_crop": True}
    opened = open_pictures(DataConfig.model_validate({**given, "workers": workers}))
    means = np.zeros(len(opened))

    def run() -> np.ndarray:
        stream = batches(opened, PICTURES_AT_ONCE, seed=0)
        for batch in itertools.islice(stream, len(opened) // PICTURES_AT_ONCE):
            means[batch.indices] = batch.pixels.mean((1, 2, 3))
        return means

    return run
