"""The work that is measured, done by flax_sd. Each case returns a call that runs it once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_sd.commands.bench.work import LORA_RANK, PROMPT, Run, Work, normal, token_ids
from flax_sd.config import Config
from flax_sd.pipelines.stable_diffusion import StableDiffusion
from flax_sd.system import compiler
from flax_sd.training.optim import make_optimizer
from flax_sd.training.setup.base_model import load_model
from flax_sd.training.setup.task import make_task
from flax_sd.training.step import init_state, make_train_step

compiler.set_up()  # as the commands do


def compiles(work: Work) -> bool:
    """Returns whether the first run is longer for compiling."""
    return True


def device_name() -> str:
    """Returns what the work runs on."""
    return jax.devices()[0].device_kind


def device_peak() -> float | None:
    """Returns the GiB at the peak of a memory that is the device's own; None on a CPU."""
    used = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return used["peak_bytes_in_use"] / 2**30 if used else None


def remat_of(work: Work) -> str:
    """Returns `train.remat`."""
    return "blocks" if work.remat else "none"


def whole_step(work: Work) -> Run:
    """A training step of a LoRA, from pixels and token ids: VAE and text encoder run before it."""
    train, lora = {"remat": remat_of(work)}, {"rank": LORA_RANK}
    values = {"model": {"path": str(work.folder)}, "train": train, "lora": lora}
    given = Config.model_validate({**values, "compute_dtype": work.dtype})
    model = load_model(given, work.dtype)
    task = make_task(given, model)
    side = work.resolution or model.networks["unet"].config.sample_size * model.pixels_per_latent
    tx = make_optimizer(given.optim, 1000)
    step = make_train_step(task.loss, tx)
    state = init_state(task.params, tx, 0, scaled=False)
    pixels, ids = np.tanh(normal(0, work.size, side, side, 3)), token_ids(work.size)

    def run() -> np.ndarray:
        nonlocal state
        encoded = task.encode(task.frozen, jnp.asarray(pixels), (jnp.asarray(ids),))
        state, metrics = step(state, task.frozen, encoded)
        return np.asarray(metrics.loss)

    return run


def txt2img(work: Work) -> Run:
    """Images from prompts: DDIM, guidance 7.5, decoded."""
    sd = StableDiffusion.load(work.folder, work.dtype)
    size = {"height": work.resolution, "width": work.resolution}
    given: dict[str, Any] = {"num_inference_steps": work.steps, "sampler": "ddim", **size}
    return lambda: sd.generate([PROMPT] * work.size, seed=0, output="float", **given)
