"""The work that is measured, done by flax_sd. Each case returns a call that runs it once."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.against_torch.sides.sizes import PICTURES_AT_ONCE, RESOLUTION
from flax_sd.commands.bench import ours as command
from flax_sd.commands.bench.work import LORA_RANK, TOKENS, Run, Work, normal, token_ids
from flax_sd.config import DataConfig, OptimConfig
from flax_sd.data import Images, Source, batches, open_images
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.lora.inject import inject
from flax_sd.models.clip import TextStates
from flax_sd.models.vae import Moments
from flax_sd.system.program import jit
from flax_sd.training.inputs.encoded import EncodedImages
from flax_sd.training.inputs.encoding_cache import Store
from flax_sd.training.losses import EncodedBatch, diffusion_loss
from flax_sd.training.optim import make_optimizer
from flax_sd.training.step import init_state, make_train_step
from flax_sd.weights.model_files import ModelFiles

compiles, device_name, device_peak = command.compiles, command.device_name, command.device_peak
whole_step, txt2img = command.whole_step, command.txt2img


def unet(work: Work) -> Run:
    """A forward pass at the size that the UNet was trained on."""
    network = ModelFiles(work.folder).load("unet", work.dtype)
    side, width = network.config.sample_size, network.config.cross_attention_dim
    graph, state = nnx.split(network)
    inputs = (
        jnp.asarray(normal(0, work.size, side, side, 4)),
        jnp.full(work.size, 500),
        jnp.asarray(normal(1, work.size, TOKENS, width)),
    )
    forward = jit(lambda state, *inputs: nnx.merge(graph, state)(*inputs))
    return lambda: np.asarray(forward(state, *inputs), np.float32)


def vae(work: Work) -> Run:
    """Decoding."""
    network = ModelFiles(work.folder).load("vae", work.dtype)
    side = network.config.sample_size // 8
    graph, state = nnx.split(network)
    latents = jnp.asarray(normal(0, work.size, side, side, 4))
    decode = jit(lambda state, x: nnx.merge(graph, state).decode(x))
    return lambda: np.asarray(decode(state, latents), np.float32)


def text(work: Work) -> Run:
    """The text encoder over 77 tokens."""
    graph, state = nnx.split(ModelFiles(work.folder).load("text_encoder", work.dtype))
    ids = jnp.asarray(token_ids(work.size))
    encode = jit(lambda state, ids: nnx.merge(graph, state)(ids).text)
    return lambda: np.asarray(encode(state, ids), np.float32)


def lora_step(work: Work) -> Run:
    """A training step of a LoRA on attention, from latents and text that were computed before."""
    step, state, frozen, batch_of = _lora_step(work)

    def run() -> np.ndarray:
        nonlocal state
        state, metrics = step(state, frozen, batch_of)
        return np.asarray(metrics.loss)

    return run


def _lora_step(work: Work) -> tuple[Any, Any, Any, Any]:
    """The jitted step and its arguments."""
    network = ModelFiles(work.folder).load("unet", work.dtype)
    side, width = network.config.sample_size, network.config.cross_attention_dim
    network.remat = command.remat_of(work)
    inject(network, "attention", LORA_RANK, LORA_RANK, "gaussian", jax.random.key(0))
    graph, params, frozen = nnx.split(network, nnx.LoRAParam, ...)
    loss = diffusion_loss({"unet": graph}, NoiseSchedule.from_config({}), scaling_factor=1.0)
    tx = make_optimizer(OptimConfig(), 1000)
    latents = jnp.asarray(normal(0, work.size, side, side, 4))
    batch_of = EncodedBatch(
        Moments(latents, jnp.full_like(latents, -30.0)),  # log variance: as good as none
        TextStates(jnp.asarray(normal(1, work.size, TOKENS, width))),
    )
    state = init_state({"unet": params}, tx, 0, scaled=False)
    return make_train_step(loss, tx), state, {"unet": frozen}, batch_of


def images(work: Work) -> Run:
    """All images of a folder once, decoded and transformed by `size` threads."""
    return _read_once(_open(work))


def moments(work: Work) -> Run:
    """The moments of as many images once, from files, by `size` threads."""
    opened = _open(work)
    store = Store(work.folder / "encoded")
    encoded = EncodedImages(opened, "", store)
    side = RESOLUTION // 8
    for i in range(len(opened)):
        names = ("mean", "logvar")
        store.write(
            encoded.key(i, opened.transforms(i)[0]), {n: normal(i, side, side, 4) for n in names}
        )
    return _read_once(encoded)


def _open(work: Work) -> Images:
    given = {"path": str(work.folder), "resolution": RESOLUTION, "center_crop": True}
    return open_images(DataConfig.model_validate({**given, "workers": work.size}))


def _read_once(source: Source) -> Run:
    means = np.zeros(len(source))

    def run() -> np.ndarray:
        stream = batches(source, PICTURES_AT_ONCE, seed=0)
        for batch in itertools.islice(stream, len(source) // PICTURES_AT_ONCE):
            rows = [x.reshape(PICTURES_AT_ONCE, -1) for x in jax.tree.leaves(batch.images)]
            means[batch.indices] = np.concatenate(rows, axis=1).mean(axis=1)
        return means

    return run
