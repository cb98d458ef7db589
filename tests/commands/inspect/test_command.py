import pathlib

import numpy as np
import pytest
import yaml

from flax_sd import cli
from flax_sd.embeddings.embedding import ONE, Embedding
from flax_sd.embeddings.files import write
from flax_sd.lora.formats import kohya, kohya_families, peft
from flax_sd.weights import safetensors
from flax_sd.weights.safetensors import TensorFile
from tests.random_loras import random_lora, write_run


@pytest.fixture(scope="module")
def lora(model):
    return random_lora(model)


@pytest.fixture
def inspect(capsys):
    """Runs the command: its exit status, and what it printed."""

    def command(*args):
        status = cli.inspect([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return status, out + err

    return command


def test_a_runs_folder(inspect, lora, model, tmp_path):
    data = {"template": "{}, flat", "resolution": 64}
    write_run(tmp_path / "cat", lora, model, train={"steps": 30}, data=data)
    status, said = inspect(tmp_path / "cat", "--model", model)
    assert status == 0
    assert said.startswith(f"{tmp_path}/cat/lora.safetensors\n  tensors ")
    for row in (
        "numbers       all finite",
        "format        LoRA, kohya's names",
        "unet          8 layers: 8 attention",
        "text_encoder  8 layers: 8 attention",
        "rank          3\n",
        "alpha         2 (alpha / rank 0.666667)",
        "base          base model version sd_v1, architecture stable-diffusion-v1/lora",
        "run           30 steps of 1 at 64 pixels, learning rate 0.0001",
        "captions      as '{}, flat'",
        "ComfyUI     48 of 48 keys",
        "fits          the model",
    ):
        assert row in said


def test_what_is_not_loaded_is_named_and_how_to_mend_it(inspect, lora, tmp_path):
    path = tmp_path / "peft.safetensors"
    peft.write(path, lora)
    status, said = inspect(path)
    assert status == 1 and "diffusers   32 of 32 keys" in said and "ComfyUI     16 of 32" in said
    assert f"for all       flax-sd export {path} --to kohya --out FILE" in said
    assert "and 13 more (--all names them)" in said
    every = inspect(path, "--all")[1]
    assert "more (--all" not in every and said != every
    assert all(key in every for key in TensorFile(path))


def test_a_dora_is_baked_for_others(inspect, lora, tmp_path):
    dora = {
        component: {path: one._replace(magnitude=np.ones(len(one.up))) for path, one in own.items()}
        for component, own in lora.items()
    }
    kohya.write(tmp_path / "a.safetensors", dora)
    status, said = inspect(tmp_path / "a.safetensors")
    assert status == 1 and "format        DoRA" in said and "--to kohya --bake 3" in said
    assert "16 not: DoRA magnitude: taken for one of the inputs" in said


def test_what_does_not_fit_the_model(inspect, lora, model, folders, tmp_path):
    lora = {"unet": {path: one for path, one in lora["unet"].items() if "attn1" in path}}
    path = next(iter(lora["unet"]))
    lora["unet"][path] = lora["unet"][path]._replace(down=np.ones((3, 5), np.float32))
    kohya.write(tmp_path / "a.safetensors", lora)
    status, said = inspect(tmp_path / "a.safetensors", "--model", folders / "sd1")
    assert status == 1 and "does not fit the model:" in said and "down is [3, 5]" in said


def test_numbers_that_are_not_finite(inspect, lora, tmp_path):
    kohya.write(tmp_path / "a.safetensors", lora)
    tensors = {key: np.array(t) for key, t in TensorFile(tmp_path / "a.safetensors").items()}
    key = next(key for key in tensors if key.endswith("lora_up.weight"))
    tensors[key][0, 0] = np.nan
    safetensors.write(tmp_path / "a.safetensors", tensors, {"ss_tag_frequency": "not JSON"})
    status, said = inspect(tmp_path / "a.safetensors")
    assert status == 1 and f"NaN or infinite in 1 of 48 tensors\n{'':16}{key}" in said


@pytest.mark.parametrize(
    ("key", "named"), [(None, "diffusers' form"), ("emb_params", "sd-scripts")]
)
def test_an_embedding(inspect, folders, tmp_path, key, named):
    path = tmp_path / "my-cat.safetensors"
    write(path, Embedding("<cat>", {ONE: np.full((2, 12), 0.5, np.float32)}), key)
    status, said = inspect(path, "--model", folders / "sd1")
    assert status == 0 and named in said and "vectors       2, 12 wide" in said
    assert f"token         {'my-cat' if key else '<cat>'}; in ComfyUI and A1111 my-cat" in said
    write(path, Embedding("<cat>", {ONE: np.ones((1, 768), np.float32)}))
    status, said = inspect(path, "--model", folders / "sd1")
    assert status == 1 and "768 wide (Stable Diffusion 1.x); this model's" in said


def test_an_embedding_of_sdxl(inspect, folders, tmp_path):
    tables = {
        name: np.full((2, width), 0.5, np.float32)
        for name, width in (("text_encoder", 768), ("text_encoder_2", 1280))
    }
    path = tmp_path / "my-cat.safetensors"
    write(path, Embedding("<cat>", tables))
    status, said = inspect(path)
    assert status == 0 and "SDXL's form" in said
    assert "token         <cat>; in ComfyUI and A1111 my-cat" in said
    assert "2, 768 wide: clip_l, of SDXL" in said and "2, 1280 wide: clip_g, of SDXL" in said
    status, said = inspect(path, "--model", folders / "sd1")
    assert status == 1 and "these are SDXL's; this model reads one table [n, 12]" in said


def test_a_header_in_kohyas_way(inspect, lora, tmp_path):
    tags = '{"10_cat": {"cat": 20, "sofa": 3}, "5_dog": {"sofa": 1, "dog": 8}}'
    header = {"ss_tag_frequency": tags, "ss_max_train_steps": "900", "ss_odd": "1"}
    header |= {"ss_clip_skip": "None"}  # which sd-scripts writes of what is not set
    kohya.write(tmp_path / "a.safetensors", lora, header)
    said = inspect(tmp_path / "a.safetensors")[1]
    assert "tags          cat (20), dog (8), sofa (4)" in said
    assert "training      max train steps 900\n" in said and "further entries:" in said


def test_bad_files_are_one_sentence_with_status_2(inspect, lora, tmp_path):
    kohya.write(tmp_path / "a.safetensors", lora)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "a.safetensors").read_bytes()[:-9])
    safetensors.write(tmp_path / "vae.safetensors", {"a": np.ones(2), "b": np.ones(2)})
    full = tmp_path / "full"
    (full / "model").mkdir(parents=True)
    (full / "config.yaml").write_text(yaml.safe_dump({"train": {"mode": "full"}}))
    (full / "model" / "model_index.json").write_text("{}")
    for path, what in {
        tmp_path / "nowhere": "does not exist",
        cut: "is not a whole safetensors file",
        tmp_path / "vae.safetensors": "is not a LoRA file: it holds a, b",
        tmp_path: "is a folder without lora.safetensors",
        full: "trained the whole model: there is no LoRA",
    }.items():
        status, said = inspect(path)
        assert status == 2 and what in said and len(said.splitlines()) == 1


def test_a_lora_of_sdxl_is_said_to_be_one(inspect, tmp_path):
    """U7, and trap 25: A1111 does not list it without its base in the header."""
    modules = {
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q": 640,
        "lora_te1_text_model_encoder_layers_3_mlp_fc1": 768,
        "lora_te2_text_projection": 1280,
    }
    tensors = {
        f"{module}.lora_{part}.weight": np.ones((2, width) if part == "down" else (width, 2))
        for module, width in modules.items()
        for part in ("down", "up")
    }
    scheduler = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    header = kohya_families.metadata("sdxl", scheduler)
    safetensors.write(tmp_path / "x.safetensors", tensors, header)
    status, said = inspect(tmp_path / "x.safetensors")
    assert status == 1  # of the text projection, which A1111 has no place for
    for row in (
        "for           SDXL\n",
        "unet          1 layers: 1 attention",
        "text_encoder  1 layers: 1 feed-forward",
        "text_encoder_2  1 layers: 1 text projection",
        "base          base model version sdxl_base_v1-0, architecture stable-diffusion-xl",
        "prediction    prediction type v, zero terminal snr True",
        "diffusers   6 of 6 keys\n",
        "ComfyUI     6 of 6 keys\n",
        "A1111       4 of 6 keys\n",
    ):
        assert row in said
    safetensors.write(tmp_path / "x.safetensors", tensors, {"format": "pt"})
    assert "beside SDXL only if that has ss_base_model" in inspect(tmp_path / "x.safetensors")[1]


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("catundchat_sd15", 1, "128 layers: 128 attention"),
        ("cloneofsimo_lora_disney", 1, "cloneofsimo's lora (layers by number): not supported"),
    ],
)
def test_real_files(inspect, test_data: pathlib.Path, name, status, said):
    found = inspect(test_data / "lora" / f"{name}.safetensors")
    assert found[0] == status and said in found[1]


def checkpoint(path, width, metadata=None, **marks):
    """The tensors that tell what a checkpoint is."""
    unet, text = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
    shapes = {
        f"{unet}input_blocks.0.0.weight": (8, 4, 3, 3),
        f"{unet}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (8, width),
        f"{text}embeddings.token_embedding.weight": (9, 4),
        "first_stage_model.decoder.conv_in.weight": (4, 4, 3, 3),
        **marks,
    }
    tensors = {name: np.ones(shape, np.float16) for name, shape in shapes.items()}
    safetensors.write(path, tensors, metadata)
    return path


def test_a_checkpoint_in_one_file(inspect, tmp_path):
    metadata = {"modelspec.title": "mine", "modelspec.architecture": "stable-diffusion-v1"}
    path = checkpoint(tmp_path / "a.safetensors", 768, metadata, v_pred=(0,), ztsnr=(0,))
    status, said = inspect(path, "--model", "bundled:base")
    assert status == 2 and "--model is for LoRAs and embeddings, and " in said
    status, said = inspect(path)
    assert status == 0
    for row in (
        "format        checkpoint in one file",
        "for           Stable Diffusion 1.x, text-to-image",
        "unet          2 tensors, 0.0 million numbers",
        "prediction    v_prediction; the noise schedule ends in pure noise (ztsnr)",
        "name          mine",
        "base          stable-diffusion-v1",
        "beside        v_pred, ztsnr",
    ):
        assert row in said


@pytest.mark.parametrize(
    ("width", "metadata", "marks", "status", "row"),
    [
        (1024, {}, {}, 0, "prediction    not said: epsilon or v_prediction, which --prediction"),
        (2048, {}, {}, 0, "prediction    epsilon, as without a mark"),
        (2048, {"modelspec.predict_key": "epsilon"}, {"v_pred": (0,)}, 1, "contradicts itself"),
        (2048, {}, {"edm_mean": (4,)}, 1, "a mark of Playground v2.5"),
    ],
)
def test_what_a_checkpoint_predicts(inspect, tmp_path, width, metadata, marks, status, row):
    found, said = inspect(checkpoint(tmp_path / "a.safetensors", width, metadata, **marks))
    assert found == status and row in said
