"""Whole checkpoints in one file, against the pipelines that diffusers reads from them."""

import diffusers
import numpy as np
import pytest

from flax_sd.errors import UserError
from flax_sd.weights import networks, safetensors
from flax_sd.weights.family import STABLE_DIFFUSION
from flax_sd.weights.fill import fill, state_tensors
from flax_sd.weights.ldm.single_file import SingleFile
from flax_sd.weights.model_files import ModelFiles
from tests.weights.ldm.tiny_files import states

PIPELINES = {
    "sd1": diffusers.StableDiffusionPipeline,
    "sd2": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
}
FAMILIES = list(PIPELINES)


def opened(singles, family, **options):
    return SingleFile(singles / f"{family}.safetensors", config=singles / family, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tensors_are_those_that_diffusers_reads(singles, family):
    """Traps 1, 3 and 23: the file is made with our table, and read with both."""
    theirs = PIPELINES[family].from_single_file(
        singles / f"{family}.safetensors", config=str(singles / family), local_files_only=True
    )
    ours = opened(singles, family)
    for component, state in states(theirs).items():
        read = ours.tensors(component)
        assert read.keys() == state.keys()
        assert all(np.array_equal(read[key], value) for key, value in state.items())


def test_networks_are_built_from_it(singles):
    ours = opened(singles, "sd1")
    assert ours.family == "sd1" and ours.components == ["text_encoder", "unet", "vae"]
    for component in ours.components:
        abstract = networks.abstract_network(ours.config(component), component)
        network = fill(abstract, ours.tensors(component), "float32", component)
        assert state_tensors(network).keys() == ours.tensors(component).keys()
    assert ours.files("unet") == [singles / "sd1.safetensors"] == [ours.place("unet")]
    ours.check()


def test_no_tensor_is_copied(singles):
    file = opened(singles, "sdxl")
    for component in file.components:
        for key, tensor in file.tensors(component).items():
            assert not tensor.flags.owndata and not tensor.flags.writeable, key


def test_a_vae_with_the_names_of_old_diffusers(singles, tmp_path):
    """Trap 23: before 0.17 its attention had other names."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = dict(opened(singles, "sd1").tensors("vae"))
    renamed = {}
    for key, tensor in state.items():
        for new, name in old.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{name}.")
        renamed[key] = tensor
    safetensors.write(tmp_path / "vae.safetensors", renamed)
    assert SingleFile(tmp_path / "vae.safetensors").tensors("vae").keys() == state.keys()


def test_other_kinds_are_named(singles):
    with pytest.raises(UserError, match="StableDiffusionXLPipeline; only a StableDiffusionPip"):
        ModelFiles(singles / "sdxl.safetensors").check_kind([STABLE_DIFFUSION])
    with pytest.raises(UserError, match="sd1.safetensors has no text_encoder_2: it holds text_enc"):
        opened(singles, "sd1").tensors("text_encoder_2")


def test_a_mixture_of_families(singles, tmp_path):
    whole = dict(safetensors.TensorFile(singles / "sdxl.safetensors"))
    unet = safetensors.TensorFile(singles / "sd1.safetensors")
    text = {key: whole[key] for key in whole if key.startswith("conditioner.embedders.1.")}
    mixed = {key: unet[key] for key in unet if not key.startswith("cond_stage_model.")} | text
    for key in mixed:
        if key.endswith("attn2.to_k.weight"):
            mixed[key] = np.zeros((8, 768), np.float32)
    safetensors.write(tmp_path / "x.safetensors", mixed)
    with pytest.raises(
        UserError, match="mixes families: its UNet is of sd1, which has no text_enc"
    ):
        SingleFile(tmp_path / "x.safetensors")


def test_unusual_sizes_need_a_folder_of_configs(singles):
    file = SingleFile(singles / "sd1.safetensors")
    with pytest.raises(
        UserError, match="its UNet has width 8 and not 320.*name a diffusers folder"
    ):
        file.config("unet")
    with pytest.raises(UserError, match="its text encoder has width 12 and not 768"):
        file.config("text_encoder")
    with pytest.raises(UserError, match="its VAE has width 4 and not 128"):
        file.config("vae")


@pytest.mark.parametrize(
    ("kept", "there", "missing"),
    [
        ("first_stage_model.", "vae", "unet and no text_encoder"),
        ("model.diffusion_model.", "unet", "vae and no text_encoder"),
        (("first_stage_model.", "model.diffusion_model."), "unet and vae", "text_encoder"),
    ],
)
def test_a_part_is_not_a_model(singles, tmp_path, kept, there, missing):
    whole = safetensors.TensorFile(singles / "sd1.safetensors")
    path = tmp_path / "part.safetensors"
    safetensors.write(path, {key: whole[key] for key in whole if key.startswith(kept)})
    file = SingleFile(path)
    with pytest.raises(UserError, match=f"has no {missing}: it holds {there}; name a checkpoint"):
        file.check()
    if there == "vae":
        with pytest.raises(UserError, match="holds only vae; name a whole checkpoint"):
            _ = file.family


def test_a_damaged_file_is_named(tmp_path, singles):
    path = tmp_path / "x.safetensors"
    data = (singles / "sd1.safetensors").read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(UserError, match="10 bytes are missing; download or write it again"):
        SingleFile(path)
    path.write_bytes(b"PK\x03\x04" + b"archive/data.pkl" + bytes(40))
    with pytest.raises(UserError, match=r"a pickle of torch \(.ckpt, .bin or .pt\) by another"):
        SingleFile(path)


@pytest.mark.parametrize("inside", ["diffusion_model", ""])
def test_the_running_mean_is_read_where_it_is_asked_for(singles, tmp_path, inside):
    """Trap 24: as diffusers' extract_ema reads it, under names without dots."""
    whole = safetensors.TensorFile(singles / "sd1.safetensors")
    tensors, prefix = dict(whole), "model.diffusion_model."
    for key in [key for key in whole if key.startswith(prefix)]:
        name = inside + key.removeprefix(prefix).replace(".", "")
        tensors[f"model_ema.{name}"] = whole[key] + 1
    safetensors.write(tmp_path / "x.safetensors", tensors)
    last, mean = (SingleFile(tmp_path / "x.safetensors", ema=ema) for ema in (False, True))
    for key, value in mean.tensors("unet").items():
        assert np.array_equal(value, last.tensors("unet")[key] + 1)
    assert mean.tensors("vae").keys() == last.tensors("vae").keys()
    with pytest.raises(UserError, match="no whole running mean .EMA. of a UNet.*; leave out ema"):
        SingleFile(singles / "sd1.safetensors", ema=True)


def marked(tmp_path, whole, metadata=None, **marks):
    path = tmp_path / "marked.safetensors"
    empty = {name: np.zeros(0, np.float32) for name in marks}
    safetensors.write(path, {**whole, **empty}, metadata)
    return SingleFile(path)


def test_the_scheduler_follows_the_marks(singles, tmp_path):
    """Traps 17, 18 and 19."""
    whole = dict(safetensors.TensorFile(singles / "sdxl.safetensors"))
    plain = marked(tmp_path, whole)
    assert plain.scheduler_config["prediction_type"] == "epsilon"
    said = SingleFile(plain.path, config=singles / "sdxl").scheduler_config
    assert said["_class_name"] == "DDIMScheduler" and said["prediction_type"] == "epsilon"
    v = marked(tmp_path, whole, v_pred=True).scheduler_config
    assert v["prediction_type"] == "v_prediction" and "rescale_betas_zero_snr" not in v
    again = SingleFile(tmp_path / "marked.safetensors", config=singles / "sdxl")
    assert again.scheduler_config["prediction_type"] == "v_prediction"  # not the folder's
    zero = marked(tmp_path, whole, v_pred=True, ztsnr=True).scheduler_config
    assert zero["rescale_betas_zero_snr"] and zero["timestep_spacing"] == "trailing"
    assert zero["_class_name"] == "EulerDiscreteScheduler"
    lone = marked(tmp_path, whole, ztsnr=True)
    with pytest.raises(UserError, match="^prediction_type should be v_prediction: .* marked ztsnr"):
        _ = lone.scheduler_config
    assert lone.scheduler("v_prediction", zero_snr=False)["rescale_betas_zero_snr"]
    torn = marked(tmp_path, whole, {"modelspec.predict_key": "epsilon"}, v_pred=True)
    with pytest.raises(UserError, match="^prediction_type is not set, and .* contradicts itself"):
        _ = torn.scheduler_config
    assert torn.scheduler("epsilon", zero_snr=False)["prediction_type"] == "epsilon"


def test_stable_diffusion_2_needs_the_option_or_a_mark(singles, tmp_path):
    """Trap 19."""
    file = SingleFile(singles / "sd2.safetensors")
    with pytest.raises(UserError, match="^prediction_type is not set.*does not say what its UNet"):
        _ = file.scheduler_config
    chosen = file.scheduler("epsilon", zero_snr=False)
    assert chosen["prediction_type"] == "epsilon" and chosen["_class_name"] == "DDIMScheduler"
    whole = dict(safetensors.TensorFile(singles / "sd2.safetensors"))
    said = marked(tmp_path, whole, {"modelspec.architecture": "stable-diffusion-v2-768-v"})
    assert said.scheduler_config["prediction_type"] == "v_prediction"


@pytest.mark.parametrize(
    ("family", "channels", "name"),
    [
        ("sd1", 9, "StableDiffusionInpaintPipeline"),
        ("sd1", 8, "StableDiffusionInstructPix2PixPipeline"),
        ("sdxl", 9, "StableDiffusionXLInpaintPipeline"),
        ("sdxl", 4, "StableDiffusionXLPipeline"),
    ],
)
def test_the_index_names_the_pipeline(singles, tmp_path, family, channels, name):
    """Traps 10 and 15."""
    whole = dict(safetensors.TensorFile(singles / f"{family}.safetensors"))
    whole["model.diffusion_model.input_blocks.0.0.weight"] = np.zeros((8, channels, 3, 3))
    index = marked(tmp_path, whole).index
    assert index["_class_name"] == name
    assert index.get("force_zeros_for_empty_prompt") == (True if family == "sdxl" else None)


def test_the_second_tokenizer_pads_with_an_exclamation_mark(singles):
    """Trap 9."""
    first, second = (
        SingleFile(singles / "sdxl.safetensors").tokenizer(f"tokenizer{end}") for end in ("", "_2")
    )
    assert first(["a cat"])[0].tolist() == [49406, 320, 2368] + [49407] * 74
    assert second(["a cat"])[0].tolist() == [49406, 320, 2368, 49407] + [0] * 73
    assert SingleFile(singles / "sd2.safetensors").tokenizer().pad == 0
    with pytest.raises(UserError, match="of family sd1, which has no tokenizer_2"):
        SingleFile(singles / "sd1.safetensors").tokenizer("tokenizer_2")


def test_a_folder_of_configs_serves(singles):
    file = opened(singles, "sd1")
    assert file.scheduler_config["_class_name"] == "DDIMScheduler"
    assert file.tokenizer().pad == 49407
    assert file.index["_class_name"] == "StableDiffusionPipeline"
    assert file.configs.keys() == {"unet", "vae", "text_encoder"}
