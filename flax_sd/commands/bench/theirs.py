"""The same work, done by diffusers, transformers and peft on torch."""

import warnings
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from peft import LoraConfig

from flax_sd.commands.bench.work import LORA_RANK, PROMPT, Run, Work, normal, token_ids

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compiles(work: Work) -> bool:
    """Returns whether the first run is longer for compiling."""
    return work.compiled


def device_name() -> str:
    """Returns what the work runs on."""
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"


def device_peak() -> float | None:
    """Returns the GiB at the peak of a memory that is the device's own; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None


def load(kind: Any, work: Work, component: str = "", **given: Any) -> Any:
    """Loads a network or a pipeline on the device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dtype = getattr(torch, work.dtype)
        folder = work.folder / component
        return kind.from_pretrained(folder, torch_dtype=dtype, **given).to(DEVICE)


def fast(network: Any, work: Work) -> Any:
    """Compiles a network, if that is asked for."""
    return torch.compile(network) if work.compiled else network


def tensor(values: np.ndarray, dtype: str) -> torch.Tensor:
    """Moves values to the device, the channels of an image first."""
    moved = torch.from_numpy(values).to(DEVICE, getattr(torch, dtype))
    return moved.movedim(-1, 1).contiguous() if moved.ndim == 4 else moved


def ids_of(work: Work) -> torch.Tensor:
    """Returns the token ids on the device."""
    return torch.from_numpy(token_ids(work.size)).to(DEVICE)


def lora(work: Work) -> tuple[Any, Any]:
    """Returns the config of a UNet with a LoRA, and a call that trains it on latents and text."""
    unet = load(diffusers.UNet2DConditionModel, work, "unet")
    unet.requires_grad_(False)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=targets))
    trained = [p for p in unet.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    if work.remat:
        unet.enable_gradient_checkpointing()
    unet.train()  # as the reference script does; gradient checkpointing is off otherwise
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    schedule, network = diffusers.DDPMScheduler(), fast(unet, work)
    dtype = getattr(torch, work.dtype)

    def train(latents: torch.Tensor, words: torch.Tensor) -> np.ndarray:
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (work.size,), device=DEVICE)
        noisy = schedule.add_noise(latents, noise, t).to(dtype)
        with torch.autocast(DEVICE.type, dtype, enabled=work.dtype != "float32"):
            out = network(noisy, t, words).sample
        loss = torch.nn.functional.mse_loss(out.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach().cpu().numpy()

    return unet.config, train


def whole_step(work: Work) -> Run:
    """As ours."""
    config, train = lora(work)
    vae = load(diffusers.AutoencoderKL, work, "vae")
    text_encoder = load(transformers.CLIPTextModel, work, "text_encoder")
    own = config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
    side = work.resolution or own
    pixels = tensor(np.tanh(normal(0, work.size, side, side, 3)), work.dtype)
    ids = ids_of(work)

    def run() -> np.ndarray:
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            words = text_encoder(ids).last_hidden_state
        return train(latents.float(), words)

    return run


def txt2img(work: Work) -> Run:
    """As ours."""
    pipeline = load(diffusers.StableDiffusionPipeline, work, safety_checker=None)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet = fast(pipeline.unet, work)
    pipeline.vae.decode = fast(pipeline.vae.decode, work)
    size = {"height": work.resolution, "width": work.resolution}

    def run() -> np.ndarray:
        seeds = [torch.Generator().manual_seed(i) for i in range(work.size)]
        prompts, steps = [PROMPT] * work.size, work.steps
        drawn = pipeline(
            prompts, num_inference_steps=steps, generator=seeds, output_type="np", **size
        )
        return drawn.images

    return run
