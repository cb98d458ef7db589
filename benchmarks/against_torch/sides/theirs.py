"""The same work, done by diffusers, transformers and peft on torch."""

import pathlib
import warnings
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from peft import LoraConfig
from PIL import Image

from benchmarks.against_torch.sides.inputs import (
    LORA_RANK,
    PICTURES_AT_ONCE,
    PROMPT,
    RESOLUTION,
    STEPS,
    TOKENS,
    Run,
    Work,
    normal,
    token_ids,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compiles(work: Work) -> bool:
    """Whether the first run is longer for compiling."""
    return work.compiled


def device_name() -> str:
    """What the work runs on."""
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"


def device_peak() -> float | None:
    """GiB at the peak of a memory that is the device's own; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None


def _load(kind: Any, work: Work, component: str = "") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dtype = getattr(torch, work.dtype)
        return kind.from_pretrained(work.folder / component, torch_dtype=dtype).to(DEVICE)


def _fast(network: Any, work: Work) -> Any:
    """Compiled, if asked for."""
    return torch.compile(network) if work.compiled else network


def _tensor(values: np.ndarray, dtype: str) -> torch.Tensor:
    """On the device; of an image channels come first."""
    tensor = torch.from_numpy(values).to(DEVICE, getattr(torch, dtype))
    return tensor.movedim(-1, 1).contiguous() if tensor.ndim == 4 else tensor


def _ids(work: Work) -> torch.Tensor:
    return torch.from_numpy(token_ids(work.size)).to(DEVICE)


def unet(work: Work) -> Run:
    """As ours."""
    network = _load(diffusers.UNet2DConditionModel, work, "unet")
    side, width = network.config.sample_size, network.config.cross_attention_dim
    latents = _tensor(normal(0, work.size, side, side, 4), work.dtype)
    words = _tensor(normal(1, work.size, TOKENS, width), work.dtype)
    t = torch.full((work.size,), 500, device=DEVICE)
    network = _fast(network, work)

    @torch.no_grad()
    def run() -> np.ndarray:
        return network(latents, t, words).sample.float().movedim(1, -1).cpu().numpy()

    return run


def vae(work: Work) -> Run:
    """As ours."""
    network = _load(diffusers.AutoencoderKL, work, "vae")
    side = network.config.sample_size // 8
    latents = _tensor(normal(0, work.size, side, side, 4), work.dtype)
    decode = _fast(network.decode, work)

    @torch.no_grad()
    def run() -> np.ndarray:
        return decode(latents).sample.float().movedim(1, -1).cpu().numpy()

    return run


def text(work: Work) -> Run:
    """As ours."""
    network = _fast(_load(transformers.CLIPTextModel, work, "text_encoder"), work)
    ids = _ids(work)

    @torch.no_grad()
    def run() -> np.ndarray:
        return network(ids).last_hidden_state.float().cpu().numpy()

    return run


def lora_step(work: Work) -> Run:
    """As ours."""
    config, train = _lora(work)
    side, width = config.sample_size, config.cross_attention_dim
    latents = _tensor(normal(0, work.size, side, side, 4), "float32")
    words = _tensor(normal(1, work.size, TOKENS, width), work.dtype)
    return lambda: train(latents, words)


def first_step(work: Work) -> dict[str, float]:
    """Does the first such step, before which nothing is compiled."""
    lora_step(work)()
    return {}


def _lora(work: Work) -> tuple[Any, Any]:
    """The config of a UNet with a LoRA, and a call that trains it on latents and text states."""
    unet = _load(diffusers.UNet2DConditionModel, work, "unet")
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
    schedule, network = diffusers.DDPMScheduler(), _fast(unet, work)
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
    config, train = _lora(work)
    vae = _load(diffusers.AutoencoderKL, work, "vae")
    text_encoder = _load(transformers.CLIPTextModel, work, "text_encoder")
    side = config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
    pixels = _tensor(np.tanh(normal(0, work.size, side, side, 3)), work.dtype)
    ids = _ids(work)

    def run() -> np.ndarray:
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            words = text_encoder(ids).last_hidden_state
        return train(latents.float(), words)

    return run


def txt2img(work: Work) -> Run:
    """As ours."""
    pipeline = _load(diffusers.StableDiffusionPipeline, work)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet = _fast(pipeline.unet, work)
    pipeline.vae.decode = _fast(pipeline.vae.decode, work)

    def run() -> np.ndarray:
        seeds = [torch.Generator().manual_seed(i) for i in range(work.size)]
        drawn = pipeline(
            [PROMPT] * work.size, num_inference_steps=STEPS, generator=seeds, output_type="np"
        )
        return drawn.images

    return run


class Folder(torch.utils.data.Dataset):
    """Resize, CenterCrop, ToTensor and Normalize of the reference script, by PIL and torch."""

    def __init__(self, folder: pathlib.Path):
        self._paths = sorted(path for path in folder.iterdir() if path.suffix != ".jsonl")

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        image = Image.open(self._paths[i]).convert("RGB")
        scale = RESOLUTION / min(image.size)
        size = (int(image.width * scale), int(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
        left, top = (round((length - RESOLUTION) / 2) for length in image.size)
        image = image.crop((left, top, left + RESOLUTION, top + RESOLUTION))
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return values.float().div(255).sub(0.5).div(0.5)


def images(work: Work) -> Run:
    """As ours, with processes in place of threads."""
    loader = torch.utils.data.DataLoader(
        Folder(work.folder), PICTURES_AT_ONCE, num_workers=work.size, persistent_workers=True
    )

    def run() -> np.ndarray:
        return torch.cat([batch.mean((1, 2, 3)) for batch in loader]).numpy()

    return run
