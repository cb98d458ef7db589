"""SDXL's training step against diffusers, peft and torch: the UNet's LoRA and both encoders'."""

import diffusers
import jax
import numpy as np
import peft
import pytest
import torch
from flax import nnx

from flax_sd.config import file
from flax_sd.lora.inject import extract
from flax_sd.models.vae import Moments
from flax_sd.training import optim
from flax_sd.training.inputs.batches import tokenize
from flax_sd.training.losses import DiffusionDraws, EncodedBatch, PlainLoss
from flax_sd.training.setup.base_model import load_model
from flax_sd.training.setup.task import make_task
from flax_sd.training.step import init_state, make_train_step
from tests import tiny
from tests.parity import to_torch

STEPS = 5
TARGETS = {
    "unet": ["to_q", "to_k", "to_v", "to_out.0"],
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "text_encoder_2": ["q_proj", "k_proj", "v_proj", "out_proj"],
}
RATES = {"unet": 1e-3, "text_encoder": 5e-4, "text_encoder_2": 2e-4}
FLAGS = ["--lora.rank", "4", "--lora.alpha", "8", "--optim.learning_rate", "1e-3"]
TEXT = [
    "--train.text_encoder",
    "--train.text_encoder_2",
    "--optim.text_encoder_learning_rate",
    "5e-4",
    "--optim.text_encoder_2_learning_rate",
    "2e-4",
]
CAPTIONS = ["a red cat", "", "two dogs in the rain, at night"]


def numbers(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batch_of(seed, text):
    """A batch of three, whose latents are not square, and what is drawn for it."""
    moments = Moments(numbers(3, 6, 10, 4, seed=seed) + 0.3, numbers(3, 6, 10, 4, seed=seed + 1))
    rng = np.random.default_rng(seed)
    time_ids = rng.integers(0, 1500, (3, 6)).astype(np.int32)
    draws = DiffusionDraws(
        numbers(3, 6, 10, 4, seed=seed + 2),
        rng.integers(0, 1000, 3),
        numbers(3, 6, 10, 4, seed=seed + 3),
    )
    return EncodedBatch(moments, text, time_ids), draws


class Theirs:
    """A step of train_text_to_image_lora_sdxl.py, with a rate for each component."""

    def __init__(self, pipeline, starts, prediction_type):
        self.pipeline, self.leaves, groups = pipeline, {}, []
        for name, start in starts.items():
            network = getattr(pipeline, name)
            network.requires_grad_(False)
            config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS[name])
            network.add_adapter(config)
            own = {n: p for n, p in network.named_parameters() if p.requires_grad}
            for key, p in own.items():
                path, kind = key.split(".lora_")
                path = path if name == "unet" or "text_model" in path else f"text_model.{path}"
                if path in start:
                    p.data = torch.from_numpy(start[path][kind[0] == "B"].copy())
                    self.leaves[name, path, kind[0] == "B"] = p
            groups.append({"params": list(own.values()), "lr": RATES[name]})
        self.adamw = torch.optim.AdamW(groups, weight_decay=0.01)
        self.trained = [p for group in groups for p in group["params"]]
        own = {key: value for key, value in tiny.NOISE.items() if key.startswith("beta")}
        self.noise = diffusers.DDPMScheduler(**own, prediction_type=prediction_type)

    def encode(self, ids):
        encoders = self.pipeline.text_encoder, self.pipeline.text_encoder_2
        found = [
            encoder(torch.from_numpy(own).long(), output_hidden_states=True)
            for encoder, own in zip(encoders, ids, strict=True)
        ]
        text = torch.cat([each.hidden_states[-2] for each in found], dim=-1)
        return text, found[1][0]

    def step(self, batch, draws, ids):
        mean, logvar = map(to_torch, batch.moments)
        latents = mean + torch.exp(0.5 * logvar) * to_torch(draws.posterior)
        latents, noise = latents * self.pipeline.vae.config.scaling_factor, to_torch(draws.noise)
        t = torch.from_numpy(np.asarray(draws.timesteps))
        target = noise
        if self.noise.config.prediction_type == "v_prediction":
            target = self.noise.get_velocity(latents, noise, t)
        text, pooled = self.encode(ids)
        added = {"text_embeds": pooled, "time_ids": torch.from_numpy(batch.time_ids).float()}
        noisy = self.noise.add_noise(latents, noise, t)
        out = self.pipeline.unet(noisy, t, text, added_cond_kwargs=added).sample
        loss = torch.nn.functional.mse_loss(out, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.adamw.step()
        self.adamw.zero_grad()
        return loss.item()


@pytest.mark.parametrize(
    ("prediction_type", "text"), [("epsilon", []), ("v_prediction", TEXT), ("epsilon", TEXT)]
)
def test_five_steps_are_those_of_diffusers_and_peft(prediction_type, text, tmp_path, config_file):
    """And trap 13: the sizes of an image reach the UNet in diffusers' order."""
    pipeline = tiny.build_xl(prediction_type)
    pipeline.save_pretrained(tmp_path)
    config = file.parse(config_file, ["--model.path", str(tmp_path), *FLAGS, *text])
    model = load_model(config, "float32")
    task = make_task(config, model)
    networks = {name: model.networks[name] for name in config.lora_components}
    starts = {
        name: {path: (a.down, a.up) for path, a in extract(network).items()}
        for name, network in networks.items()
    }
    theirs = Theirs(pipeline, starts, prediction_type)
    ids = tokenize(CAPTIONS, model.tokenizers)

    def loss_of(params, frozen, fed, draws):
        return task.loss.loss(params, frozen, fed[0], draws)

    step = make_train_step(
        PlainLoss(lambda key, fed: fed[1], loss_of),
        tx := optim.make_optimizer(config.optim, STEPS),
    )
    state = init_state(task.params, tx, 0, scaled=False)
    for n in range(STEPS):
        states = ids if text else task.text(task.frozen, ids)
        batch, draws = batch_of(10 * n, states)
        state, metrics = step(state, task.frozen, (batch, draws))
        assert float(metrics.loss) == pytest.approx(theirs.step(batch, draws, ids), rel=1e-5)

    moved = trained_leaves(task, networks, state)
    assert moved.keys() == theirs.leaves.keys()
    for (name, path, up), p in theirs.leaves.items():
        start, wanted = starts[name][path][up], p.detach().numpy()
        way = np.linalg.norm(wanted - start)
        assert way > 0, (name, path)
        error = np.linalg.norm(moved[name, path, up] - wanted) / way
        print(f"{name}.{path}: {error:.1e} of its way")
        assert error <= 1e-3, (name, path)


def trained_leaves(task, networks, state):
    """The matrices of each layer after the steps."""
    found = {}
    for name, leaves in state.params.tree(state.starts).items():
        nnx.update(networks[name], jax.tree.map(np.asarray, leaves))
        for path, adapter in extract(networks[name]).items():
            found |= {(name, path, False): adapter.down, (name, path, True): adapter.up}
    return found
