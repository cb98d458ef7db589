"""What a model's folder says of itself, and its networks from its configs and tensors."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.models.vae import AutoencoderKL
from flax_sd.weights import networks
from flax_sd.weights.diffusers_folder import save_component
from flax_sd.weights.family import STABLE_DIFFUSION
from flax_sd.weights.fill import state_tensors
from flax_sd.weights.model_files import ModelFiles
from tests import tiny
from tests.weights.test_networks import VAE


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps(VAE))
    return tmp_path


def test_what_was_saved_is_loaded_in_the_dtype_asked_for(folder):
    network = ModelFiles(folder).random("vae", "float32", jax.random.key(0))
    save_component(folder, "vae", state_tensors(network), VAE)
    loaded = ModelFiles(folder).load("vae", "float32")
    assert isinstance(loaded, AutoencoderKL) and loaded.config.block_out_channels == (4, 8)
    a, b = state_tensors(network), state_tensors(loaded)
    assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
    half = ModelFiles(folder).load("vae", "bfloat16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(half))} == {"bfloat16"}


def test_no_config(tmp_path):
    with pytest.raises(UserError, match="has no unet: it holds no parts; name a whole model"):
        ModelFiles(tmp_path).random("unet", "float32", jax.random.key(0))


def indexed(folder, **entries):
    (folder / "model_index.json").write_text(json.dumps(entries))
    return folder


def config(folder, part, **fields):
    (folder / part).mkdir(exist_ok=True)
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    (folder / part / name).write_text(json.dumps(fields))


def test_the_index_names_the_class_as_in_diffusers(tmp_path):
    """F26: a config need not name its own class."""
    indexed(
        tmp_path,
        text_encoder=["transformers", "CLIPTextModel"],
        unet=["diffusers", "UNet2DConditionModel"],
        vae=[None, None],
        scheduler=["diffusers", "DDIMScheduler"],
    )
    for part in ("text_encoder", "unet", "scheduler"):
        config(tmp_path, part)
    config(tmp_path, "vae", _class_name="AutoencoderKL")
    raw = ModelFiles(tmp_path).configs
    text = raw["text_encoder"]
    assert text == {"architectures": ["CLIPTextModel"]}
    assert networks.network_config(text, "x")[0] is networks.KINDS["CLIPTextModel"]
    assert raw["unet"]["_class_name"] == "UNet2DConditionModel"
    assert raw["vae"] == {"_class_name": "AutoencoderKL"}
    assert ModelFiles(tmp_path).scheduler_config["_class_name"] == "DDIMScheduler"


def test_a_text_encoder_outside_of_a_model(tmp_path):
    """F26: transformers finds the class by the type, and the fields of a whole CLIP inside."""
    config(tmp_path, "te", model_type="clip_text_model", num_hidden_layers=3)
    raw = ModelFiles(tmp_path).config("te")
    assert networks.network_config(raw, "te")[1].num_hidden_layers == 3
    whole = {"architectures": ["CLIPTextModel"], "text_config": {"num_hidden_layers": 4}}
    assert networks.network_config(whole, "te")[1].num_hidden_layers == 4


@pytest.mark.parametrize(
    "name", [None, "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"]
)
def test_pipelines_of_the_same_parts(tmp_path, name):
    """F26: whose folders diffusers' StableDiffusionPipeline loads."""
    ModelFiles(indexed(tmp_path, **({"_class_name": name} if name else {}))).check_kind()


def test_another_pipeline_is_named(tmp_path):
    indexed(tmp_path, _class_name="StableDiffusion3Pipeline")
    with pytest.raises(
        UserError, match=r"is a StableDiffusion3Pipeline; only a .* \(1.x or 2.x\) or"
    ):
        ModelFiles(tmp_path).check_kind()
    indexed(tmp_path, _class_name="StableDiffusionXLPipeline")
    ModelFiles(tmp_path).check_kind()
    with pytest.raises(UserError, match="only a StableDiffusionPipeline .* can be used here"):
        ModelFiles(tmp_path).check_kind([STABLE_DIFFUSION])


def test_the_refiner_lacks_the_first_text_encoder(tmp_path):
    """Trap 15: as the hub's model_index.json says."""
    absent = {name: [None, None] for name in ("text_encoder", "tokenizer")}
    indexed(tmp_path, _class_name="StableDiffusionXLImg2ImgPipeline", **absent)
    kind = ModelFiles(tmp_path).kind
    assert kind.text_encoders == ("text_encoder_2",) and kind.tokenizers == ("tokenizer_2",)
    assert kind.networks == ("unet", "vae", "text_encoder_2")


def test_a_vae_of_the_scale_that_the_model_has_is_taken(tmp_path):
    """One whose configs say another scale than its family's was refused its own VAE."""
    tiny.build_xl().save_pretrained(tmp_path / "xl")
    config = tmp_path / "xl/vae/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "scaling_factor": 0.18215}))
    ModelFiles.find(tmp_path / "xl", vae=str(tmp_path / "xl")).check_kind()
