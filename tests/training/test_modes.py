"""Whole runs of each mode: what they change, and what they write."""

import json

import diffusers
import numpy as np
import pytest
import torch

from flax_sd import data
from flax_sd.config import file as config_file
from flax_sd.training.step import INITIAL_SCALE
from tests import tiny
from tests.training_runs import contents, tensors

FULL = ["--train.mode", "full", "--train.steps", 2]  # one program, compiled once for all tests


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_the_lora_in_float32(train, dtype):
    run = train("a", "--compute_dtype", dtype, "--train.steps", 3, "--checkpoint.every", 3)
    assert run.status == 0, run.err
    assert all(np.isfinite(line["loss"]) for line in run.metrics())
    scales = [line.get("loss_scale") for line in run.metrics()]
    assert scales == [INITIAL_SCALE if dtype == "float16" else None] * 3
    lora = run.lora()
    assert {value.dtype for value in lora.values()} == {np.dtype(np.float32)}
    assert max(np.abs(v).max() for key, v in lora.items() if "lora_up" in key) > 1e-4
    listing = json.loads((run.folder / "checkpoints/3/leaves/metadata").read_text())["leaves"]
    kinds = {name: kind for name, (_, kind, _) in listing.items()}
    assert kinds["loss_scale.scale"] == "float32"
    assert {kind for name, kind in kinds.items() if name.startswith("params")} == {"float32"}


def test_the_text_encoders_lora_has_its_own_learning_rate(train):
    flags = ["--train.text_encoder", "--train.steps", 1, "--optim.weight_decay", 0]
    both = train("a", *flags).lora()
    text = [key for key in both if key.startswith("lora_te_") and "lora_up" in key]
    unet = [key for key in both if key.startswith("lora_unet_") and "lora_up" in key]
    assert len(text) == 2 * 4 and unet
    still = train("b", *flags, "--optim.text_encoder_learning_rate", 0).lora()
    assert all(not still[key].any() for key in text)
    assert all(np.array_equal(both[key], still[key]) for key in unet)
    assert all(both[key].any() for key in text)


@pytest.mark.parametrize("with_text", [False, True])
def test_full_training_writes_a_model_that_diffusers_loads(train, model, with_text):
    flags = [*FULL, "--train.text_encoder", "--model.clip_skip", 1] if with_text else FULL
    run = train("a", *flags)
    assert run.status == 0, run.err
    assert not (run.folder / "lora.safetensors").exists() and not (run.folder / "loras").exists()
    for name, file in [
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ]:
        before = (model / name / f"{file}.safetensors").read_bytes()
        after = (run.folder / "model" / name / f"{file}.safetensors").read_bytes()
        trained = name == "unet" or (name == "text_encoder" and with_text)
        assert (before != after) == trained
    text, was = (
        {key.removeprefix("text_model."): tensor for key, tensor in tensors(file).items()}
        for file in (
            folder / "text_encoder/model.safetensors" for folder in (run.folder / "model", model)
        )
    )
    moved = {key for key in text if not np.array_equal(text[key], was[key])}
    assert any(".layers.0." in key for key in moved) == with_text
    assert not [key for key in moved if ".layers.1." in key]  # B3: which clip_skip leaves out
    pipeline = tiny.load(run.folder / "model")
    ours = tensors(run.folder / "model/unet/diffusion_pytorch_model.safetensors")
    theirs = pipeline.unet.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key].numpy()) for key in ours)
    assert pipeline.text_encoder.dtype == torch.float32
    whole = contents(run.folder)
    for name in ("model_index.json", "unet/diffusion_pytorch_model.safetensors"):
        (run.folder / "model" / name).unlink()
        assert train("a", *flags).status == 0
        assert contents(run.folder) == whole


BEST = {"lora": "lora", "full": "model"}  # what the best state's name is made of


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_results_are_the_running_mean_if_one_is_kept(train, mode, images):
    flags = ["--train.mode", mode, "--train.steps", 4, "--data.held_out", images]
    plain, mean = train("a", *flags), train("b", *flags, "--train.ema_decay", 0.5)
    assert mean.status == 0, mean.err
    ours, theirs = plain.metrics(), mean.metrics()
    assert [line.get("loss") for line in ours] == [line.get("loss") for line in theirs]
    assert ours[-1]["val_loss"] != theirs[-1]["val_loss"]
    result = "model/unet/diffusion_pytorch_model" if mode == "full" else "lora"
    a, b = (tensors(run.folder / f"{result}.safetensors") for run in (plain, mean))
    assert any(not np.array_equal(a[key], b[key]) for key in a)
    flags += ["--train.ema_decay", 0.5, "--validation.every", 2]
    halfway = tensors(train("c", *flags, "--train.steps", 2).folder / f"{result}.safetensors")
    again = train("c", *flags)
    assert "resumes: step 2" in again.out
    c = tensors(again.folder / f"{result}.safetensors")
    assert all(np.array_equal(b[key], c[key]) for key in b)
    losses = {line["step"]: line["val_loss"] for line in again.metrics() if "val_loss" in line}
    wanted = halfway if losses[2] < losses[4] else c
    kept = result.replace(BEST[mode], f"{BEST[mode]}_best", 1)
    best = tensors(again.folder / f"{kept}.safetensors")
    assert all(np.array_equal(best[key], wanted[key]) for key in wanted)


def test_full_training_from_scratch_forgets_the_weights(train, model):
    run = train("a", *FULL, "--model.from_scratch", "unet", "--save_dtype", "float16")
    assert run.status == 0, run.err
    ours = tensors(run.folder / "model/unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in ours.values()} == {np.dtype(np.float16)}  # U8
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (run.folder / "model" / vae).read_bytes() == (model / vae).read_bytes()
    theirs = tensors(model / "unet/diffusion_pytorch_model.safetensors")
    assert ours.keys() == theirs.keys()
    assert not np.allclose(ours["conv_in.weight"], theirs["conv_in.weight"], atol=0.01)
    assert np.abs(ours["conv_out.weight"]).max() <= 3e-3  # zero, and two steps of 1e-3


def test_the_autoencoder_is_trained_and_keeps_its_scale_unless_it_is_to_be_measured(train, model):
    """A1: the UNet beside the VAE was trained on latents of the old scale."""
    steps = ["--train.mode", "vae", "--train.steps", 2]
    kept = diffusers.AutoencoderKL.from_pretrained(train("kept", *steps).folder / "model" / "vae")
    assert kept.config.scaling_factor == 0.3
    run = train("a", *steps, "--train.measure_scaling_factor")
    assert run.status == 0, run.err
    vae = diffusers.AutoencoderKL.from_pretrained(run.folder / "model" / "vae")
    old = diffusers.AutoencoderKL.from_pretrained(model / "vae")
    moved = [
        key
        for key, value in vae.state_dict().items()
        if not torch.equal(value, old.state_dict()[key])
    ]
    assert len(moved) > 0.9 * len(vae.state_dict())
    assert vae.config.scaling_factor != old.config.scaling_factor
    with torch.no_grad():
        images = data.open_images(config_file.parse(run.folder / "config.yaml", []).data)
        pixels = np.stack([images.load(i % 7, seed=0, sample=i % 7) for i in range(8)])
        moments = vae.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2)).latent_dist
        second = (moments.mean**2 + moments.var).mean()
        scale = 1 / (second - moments.mean.mean() ** 2).sqrt()
    assert vae.config.scaling_factor == pytest.approx(float(scale), rel=1e-4)
    tiny.load(run.folder / "model")
    new = train("new", *steps, "--model.from_scratch", "vae").folder / "model" / "vae"
    assert diffusers.AutoencoderKL.load_config(new)["scaling_factor"] not in (0.3, float(scale))


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
def test_another_vae(train, tmp_path, kind):
    torch.manual_seed(0)
    if kind == "AutoencoderKL":
        config = tiny.build("sd1").vae.config
        vae = diffusers.AutoencoderKL.from_config(config, scaling_factor=0.7)
    else:
        vae = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(4,) * 4,
            decoder_block_out_channels=(4,) * 4,
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        )
    vae.save_pretrained(tmp_path / "vae_folder")
    plain = train("a").metrics()[0]["loss"]
    run = train("b", "--model.vae", tmp_path / "vae_folder")
    assert run.status == 0, run.err
    assert run.metrics()[0]["loss"] != plain
    full = train("c", *FULL, "--model.vae", tmp_path / "vae_folder")
    assert full.status == 0, full.err
    loaded = tiny.load(full.folder / "model").vae
    assert type(loaded).__name__ == kind
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in vae.state_dict().items())


def test_only_an_autoencoder_with_moments_can_be_trained(train, tmp_path):
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(4,) * 4, decoder_block_out_channels=(4,) * 4
    )
    vae.save_pretrained(tmp_path / "tiny")
    run = train("a", "--train.mode", "vae", "--model.vae", tmp_path / "tiny")
    assert run.status == 2 and "train.mode vae trains an AutoencoderKL" in run.err


def test_a_variant_is_read_and_written_under_plain_names(train, model, tmp_path):
    pipeline = tiny.load(model)
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    flags = ["--model.path", tmp_path / "half", *FULL]
    assert "name the variant" in train("a", *flags).err
    run = train("b", *flags, "--model.variant", "fp16")
    assert run.status == 0, run.err
    loaded = tiny.load(run.folder / "model")
    assert loaded.unet.dtype == torch.float32
    frozen = tensors(run.folder / "model/vae/diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in frozen.values()} == {np.dtype(np.float16)}
