"""Counts the FLOPs of a UNet's forward pass and of its LoRA training step, over their jaxprs.

python -m benchmarks.compiled.flops
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.common.real_size import FAMILIES
from flax_sd.config import OptimConfig
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.lora.inject import inject
from flax_sd.models.clip import TextStates
from flax_sd.models.vae import Moments
from flax_sd.system.flops import count_flops
from flax_sd.training.losses import EncodedBatch, diffusion_loss
from flax_sd.training.optim import make_optimizer
from flax_sd.training.step import init_state, make_train_step
from flax_sd.weights.networks import abstract_network

TOKENS = 77


def count(raw: dict[str, object]) -> tuple[int, int]:
    """FLOPs of the forward pass and of the step (LoRA on attention, rank 4), one image."""
    unet = abstract_network(raw, "unet")
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    shapes = ((1, side, side, 4), (1,), (1, TOKENS, width))
    latents, t, text = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    graph, weights = nnx.split(unet)
    forward = count_flops(lambda w, *xs: nnx.merge(graph, w)(*xs), weights, latents, t, text)
    inject(unet, "attention", 4, 4.0, "gaussian", jax.random.key(0))
    graph, params, frozen = nnx.split(unet, nnx.LoRAParam, ...)
    loss = diffusion_loss({"unet": graph}, NoiseSchedule.from_config({}), scaling_factor=1.0)
    tx = make_optimizer(OptimConfig(), 1)
    state = jax.eval_shape(lambda p: init_state({"unet": p}, tx, 0, scaled=False), params)
    batch: Any = jax.eval_shape(
        lambda z, words: EncodedBatch(Moments(z, z), TextStates(words)), latents, text
    )
    return forward, count_flops(make_train_step(loss, tx), state, {"unet": frozen}, batch)


def main() -> None:
    """Prints them for the real sizes."""
    for name, configs in FAMILIES.items():
        forward, step = (flops / 1e12 for flops in count(configs["unet"]))
        ratio = f"{step / forward:.2f} times"
        print(f"{name}: forward {forward:.3f} TFLOP, LoRA step {step:.3f}, {ratio}")


if __name__ == "__main__":
    main()
