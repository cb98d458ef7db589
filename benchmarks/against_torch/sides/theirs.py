"""The same work, done by diffusers, transformers and peft on torch."""

import pathlib

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image

from benchmarks.against_torch.sides.sizes import PICTURES_AT_ONCE, RESOLUTION
from flax_sd.commands.bench import theirs as command
from flax_sd.commands.bench.theirs import DEVICE, fast, ids_of, load, tensor
from flax_sd.commands.bench.work import TOKENS, Run, Work, normal

compiles, device_name, device_peak = command.compiles, command.device_name, command.device_peak
whole_step, txt2img = command.whole_step, command.txt2img


def unet(work: Work) -> Run:
    """As ours."""
    network = load(diffusers.UNet2DConditionModel, work, "unet")
    side, width = network.config.sample_size, network.config.cross_attention_dim
    latents = tensor(normal(0, work.size, side, side, 4), work.dtype)
    words = tensor(normal(1, work.size, TOKENS, width), work.dtype)
    t = torch.full((work.size,), 500, device=DEVICE)
    network = fast(network, work)

    @torch.no_grad()
    def run() -> np.ndarray:
        return network(latents, t, words).sample.float().movedim(1, -1).cpu().numpy()

    return run


def vae(work: Work) -> Run:
    """As ours."""
    network = load(diffusers.AutoencoderKL, work, "vae")
    side = network.config.sample_size // 8
    latents = tensor(normal(0, work.size, side, side, 4), work.dtype)
    decode = fast(network.decode, work)

    @torch.no_grad()
    def run() -> np.ndarray:
        return decode(latents).sample.float().movedim(1, -1).cpu().numpy()

    return run


def text(work: Work) -> Run:
    """As ours."""
    network = fast(load(transformers.CLIPTextModel, work, "text_encoder"), work)
    ids = ids_of(work)

    @torch.no_grad()
    def run() -> np.ndarray:
        return network(ids).last_hidden_state.float().cpu().numpy()

    return run


def lora_step(work: Work) -> Run:
    """As ours."""
    config, train = command.lora(work)
    side, width = config.sample_size, config.cross_attention_dim
    latents = tensor(normal(0, work.size, side, side, 4), "float32")
    words = tensor(normal(1, work.size, TOKENS, width), work.dtype)
    return lambda: train(latents, words)


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
