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


def _load(kind: Any, folder: pathlib.Path, dtype: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind.from_pretrained(folder, torch_dtype=getattr(torch, dtype))


def _tensor(values: np.ndarray, dtype: str) -> torch.Tensor:
    """Channels last to channels first."""
    return torch.from_numpy(values).movedim(-1, 1).to(getattr(torch, dtype)).contiguous()


def unet(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """As ours."""
    network = _load(diffusers.UNet2DConditionModel, folder / "unet", dtype)
    side, width = network.config.sample_size, network.config.cross_attention_dim
    latents = _tensor(normal(0, batch, side, side, 4), dtype)
    words = torch.from_numpy(normal(1, batch, TOKENS, width)).to(getattr(torch, dtype))

    @torch.no_grad()
    def run() -> np.ndarray:
        out = network(latents, torch.full((batch,), 500), words).sample
        return out.float().movedim(1, -1).numpy()

    return run


def vae(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """As ours."""
    network = _load(diffusers.AutoencoderKL, folder / "vae", dtype)
    side = network.config.sample_size // 8
    latents = _tensor(normal(0, batch, side, side, 4), dtype)

    @torch.no_grad()
    def run() -> np.ndarray:
        return network.decode(latents).sample.float().movedim(1, -1).numpy()

    return run


def text(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """As ours."""
    network = _load(transformers.CLIPTextModel, folder / "text_encoder", dtype)
    ids = torch.from_numpy(token_ids(batch))

    @torch.no_grad()
    def run() -> np.ndarray:
        return network(ids).last_hidden_state.float().numpy()

    return run


def lora_step(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """As ours."""
    network, train = _lora(folder, batch, dtype)
    side, width = network.config.sample_size, network.config.cross_attention_dim
    latents = _tensor(normal(0, batch, side, side, 4), "float32")
    words = torch.from_numpy(normal(1, batch, TOKENS, width)).to(getattr(torch, dtype))
    return lambda: train(latents, words)


def first_step(folder: pathlib.Path, batch: int, dtype: str) -> dict[str, float]:
    """Does the first such step, before which nothing is compiled."""
    lora_step(folder, batch, dtype)()
    return {}


def _lora(folder: pathlib.Path, batch: int, dtype: str) -> tuple[Any, Any]:
    """The UNet with a LoRA, and a call that trains it on latents and text states."""
    network = _load(diffusers.UNet2DConditionModel, folder / "unet", dtype)
    network.requires_grad_(False)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    network.add_adapter(LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=targets))
    trained = [p for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    schedule = diffusers.DDPMScheduler()

    def train(latents: torch.Tensor, words: torch.Tensor) -> np.ndarray:
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (batch,))
        noisy = schedule.add_noise(latents, noise, t).to(getattr(torch, dtype))
        with torch.autocast("cpu", getattr(torch, dtype), enabled=dtype != "float32"):
            out = network(noisy, t, words).sample
        loss = torch.nn.functional.mse_loss(out.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach().numpy()

    return network, train


def whole_step(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """As ours."""
    network, train = _lora(folder, batch, dtype)
    vae = _load(diffusers.AutoencoderKL, folder / "vae", dtype)
    text_encoder = _load(transformers.CLIPTextModel, folder / "text_encoder", dtype)
    side = network.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
    pixels = _tensor(np.tanh(normal(0, batch, side, side, 3)), dtype)
    ids = torch.from_numpy(token_ids(batch))

    def run() -> np.ndarray:
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            words = text_encoder(ids).last_hidden_state
        return train(latents.float(), words)

    return run


def txt2img(folder: pathlib.Path, batch: int, dtype: str) -> Run:
    """As ours."""
    pipeline = _load(diffusers.StableDiffusionPipeline, folder, dtype)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)

    def run() -> np.ndarray:
        seeds = [torch.Generator().manual_seed(i) for i in range(batch)]
        drawn = pipeline(
            [PROMPT] * batch, num_inference_steps=STEPS, generator=seeds, output_type="np"
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


def pictures(folder: pathlib.Path, workers: int, dtype: str) -> Run:
    """As ours, with processes in place of threads."""
    loader = torch.utils.data.DataLoader(
        Folder(folder), PICTURES_AT_ONCE, num_workers=workers, persistent_workers=True
    )

    def run() -> np.ndarray:
        return torch.cat([batch.mean((1, 2, 3)) for batch in loader]).numpy()

    return run
