import ml_dtypes
import numpy as np
import pytest

from flax_sd.commands.export.lora import LoRAForm, write_lora
from flax_sd.errors import UserError
from flax_sd.lora.formats import peft
from flax_sd.lora.formats.read import read
from flax_sd.run_folder.artifacts import find_source
from flax_sd.system.progress import Progress
from flax_sd.weights import safetensors
from flax_sd.weights.model_files import ModelFiles
from flax_sd.weights.safetensors import TensorFile
from tests import tiny
from tests.random_loras import random_lora, write_run


@pytest.fixture(scope="module")
def lora(model):
    return random_lora(model)


@pytest.fixture
def cat(lora, tmp_path):
    """A run's folder on a machine that has not its model any more."""
    write_run(tmp_path / "cat", lora, "/models/gone", train={"steps": 30}, seed=4)
    return tmp_path / "cat"


def deltas(model, path):
    """component, layer -> what the file adds to its weights."""
    files = ModelFiles(model)
    networks = {name: files.abstract(name) for name in files.kind.adapted}
    file = read(path, networks)
    return {(name, key): one.delta() for name, own in file.items() for key, one in own.items()}


def assert_scaled(model, path, lora, strength, tolerance=1e-6):
    ours = deltas(model, path)
    theirs = {(name, key): one.delta() for name, own in lora.items() for key, one in own.items()}
    assert ours.keys() == theirs.keys()
    for key, delta in theirs.items():
        error = np.abs(ours[key] - strength * delta).max()
        assert error <= tolerance * np.abs(strength * delta).max(), key


def export(source, to, out, strength=1.0, dtype="auto", model=None, bake=None):
    form = LoRAForm(to, strength, dtype, bake)
    return write_lora(find_source(source, model, None, None), form, out, Progress())


@pytest.mark.parametrize("to", ["kohya", "peft"])
@pytest.mark.parametrize("strength", [1.0, -0.5, 0.0])
def test_a_run_is_exported_without_its_model(cat, lora, model, tmp_path, to, strength):
    out = export(cat, to, tmp_path / "new" / "mycat.safetensors", strength)
    assert out == tmp_path / "new" / "mycat.safetensors"
    assert_scaled(model, out, lora, strength)
    file = TensorFile(out)  # B6: an alpha of 0 would be the rank to sd-scripts
    assert all(file[key] > 0 for key in file if key.endswith(".alpha"))
    assert [path.name for path in out.parent.iterdir()] == ["mycat.safetensors"]


def test_kohya_keeps_the_tensors_and_names_the_file(cat, tmp_path):
    out = export(cat, "kohya", tmp_path / "mycat.safetensors")
    run, new = TensorFile(cat / "lora.safetensors"), TensorFile(out)
    assert {key: new[key].tobytes() for key in new} == {key: run[key].tobytes() for key in run}
    expected = {
        "ss_output_name": "mycat",
        "modelspec.title": "mycat",
        "ss_sd_model_name": "gone",
        "ss_resolution": "(512, 512)",
        "ss_clip_skip": "None",
        "ss_max_token_length": "None",
        "ss_learning_rate": "0.0001",
        "ss_optimizer": "adamw",
        "ss_lr_scheduler": "constant",
        "ss_max_train_steps": "30",
        "ss_total_batch_size": "1",
        "ss_seed": "4",
        "flax_sd_export": "kohya",
    }
    assert new.metadata == run.metadata | expected


@pytest.mark.parametrize(
    "to, name", [("kohya", "lora.safetensors"), ("peft", "pytorch_lora_weights.safetensors")]
)
def test_a_folder_gets_the_usual_name(cat, tmp_path, to, name):
    assert export(cat, to, tmp_path / "mycat") == tmp_path / "mycat" / name


@pytest.mark.parametrize(
    "dtype, kind, tolerance",
    [("float16", np.float16, 2e-3), ("bfloat16", ml_dtypes.bfloat16, 2e-2)],
)
@pytest.mark.parametrize("to", ["kohya", "peft"])
def test_narrow_types_and_back(cat, lora, model, tmp_path, to, dtype, kind, tolerance):
    out = export(cat, to, tmp_path / "narrow.safetensors", dtype=dtype)
    file = TensorFile(out)
    kinds = {file.dtype(key) for key in file if not key.endswith(".alpha")}
    assert kinds == {np.dtype(kind)}
    assert_scaled(model, out, lora, 1.0, tolerance)
    again = export(out, to, tmp_path / "again.safetensors", model=str(model))
    assert TensorFile(again).dtype(sorted(TensorFile(again))[-1]) == np.dtype(kind)


def test_any_lora_file_with_its_model(cat, lora, model, tmp_path):
    """A PEFT file of somebody's: family and names come from the model's configs."""
    file = cat / "pytorch_lora_weights.safetensors"
    file = file.rename(tmp_path / "downloaded.safetensors")
    out = export(file, "kohya", tmp_path / "b.safetensors", model=str(model))
    assert_scaled(model, out, lora, 1.0)
    metadata = TensorFile(out).metadata
    assert metadata["ss_base_model_version"] == "sd_v1" and "ss_seed" not in metadata


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl") / "model"
    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    tiny.build_xl("v_prediction", **zero_snr).save_pretrained(folder)
    return folder


def test_a_lora_of_sdxl_goes_to_web_uis_and_back(sdxl, tmp_path, capsys):
    """Traps 12, 25: PEFT's names lose the attention, kohya's the text projection in A1111."""
    lora = random_lora(sdxl, targets="conv")
    peft.write(tmp_path / "a.safetensors", lora)
    out = tmp_path / "b.safetensors"
    export(tmp_path / "a.safetensors", "kohya", out, 0.5, model=str(sdxl))
    file, said = TensorFile(out), capsys.readouterr().out
    assert_scaled(sdxl, out, lora, 0.5)
    names = {key.split(".")[0] for key in file}
    assert {name.split("_")[1] for name in names} == {"unet", "te1", "te2"}
    for name in ("input_blocks_3_1_transformer_blocks_1_attn2_to_k", "label_emb_0_2", "out_2"):
        assert f"lora_unet_{name}" in names
    assert not any("down_blocks" in name or "add_embedding" in name for name in names)
    assert file.metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert file.metadata["ss_zero_terminal_snr"] == "True"
    assert file.metadata["modelspec.prediction_type"] == "v"
    assert f"A1111 does not load 3 of {len(file)} keys: the text projection" in said
    assert "ComfyUI" not in said and "diffusers" not in said
    back = export(out, "peft", tmp_path / "c.safetensors", model=str(sdxl))
    assert_scaled(sdxl, back, lora, 0.5)
    said = capsys.readouterr().out
    attention = 2 * sum("attn" in path for path in lora["unet"])
    assert f"ComfyUI does not load {attention} of" in said and "A1111 does not load" in said


def test_a_run_of_sdxl_needs_its_model_for_the_names(sdxl, tmp_path):
    lora = {
        "unet": {
            "mid_block.resnets.0.conv1": random_lora(sdxl, targets="conv")["unet"][
                "mid_block.resnets.0.conv1"
            ]
        }
    }
    write_run(tmp_path / "run", lora, sdxl, family="sdxl")
    out = export(tmp_path / "run", "kohya", tmp_path / "a.safetensors")
    assert min(TensorFile(out)) == "lora_unet_middle_block_0_in_layers_2.alpha"


def test_what_a_header_says_of_its_training_stays(cat, model, tmp_path):
    file = TensorFile(cat / "lora.safetensors")
    said = {"ss_training_started_at": "1700000000.0", "sshs_model_hash": "of other bytes"}
    foreign = tmp_path / "foreign.safetensors"
    safetensors.write(foreign, dict(file), file.metadata | said)
    out = export(foreign, "kohya", tmp_path / "b.safetensors", 0.5, model=str(model))
    metadata = TensorFile(out).metadata
    assert metadata["ss_training_started_at"] == "1700000000.0"
    assert "sshs_model_hash" not in metadata
    assert float(metadata["ss_network_alpha"]) == 1.0  # 2, at half the strength


def test_exports_are_replaced_and_nothing_else_is(cat, tmp_path):
    out = export(cat, "kohya", tmp_path / "a.safetensors")
    assert export(cat, "peft", out) == out
    before = (cat / "lora.safetensors").read_bytes()
    with pytest.raises(UserError, match="lora.safetensors exists and is not an earlier export"):
        export(cat, "kohya", cat)
    assert (cat / "lora.safetensors").read_bytes() == before
    (tmp_path / "b.safetensors").write_text("mine")
    with pytest.raises(UserError, match="b.safetensors exists and is not an earlier export"):
        export(cat, "peft", tmp_path / "b.safetensors")


def test_too_large_for_float16(cat, tmp_path):
    out = tmp_path / "new" / "a.safetensors"
    with pytest.raises(
        UserError, match="(?s)too large for the dtype .*text_encoder.*lora_B.weight .float16"
    ):
        export(cat, "peft", out, 1e6, "float16")
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize("name", ["lora", "pytorch_lora_weights"])
def test_a_file_of_a_run_needs_neither_its_twin_nor_the_model(cat, lora, model, tmp_path, name):
    other = {"lora": "pytorch_lora_weights", "pytorch_lora_weights": "lora"}[name]
    (cat / f"{other}.safetensors").unlink()
    file = cat / f"{name}.safetensors"
    assert_scaled(model, export(file, "peft", tmp_path / "a.safetensors"), lora, 1.0)


@pytest.mark.parametrize(
    ("old", "new"), [("mid_block", "odd_block"), ("lora_te_", "lora_te2_")], ids=["odd", "SDXL"]
)
def test_a_run_with_other_layers_needs_its_model(cat, tmp_path, old, new):
    file = TensorFile(cat / "lora.safetensors")
    tensors = {key.replace(old, new): np.array(file[key]) for key in file}
    safetensors.write(cat / "lora.safetensors", tensors, file.metadata)
    with pytest.raises(UserError, match="/models/gone"):
        export(cat, "kohya", tmp_path / "a.safetensors")


def test_a_broken_file_of_a_run(cat, tmp_path):
    file = TensorFile(cat / "lora.safetensors")
    tensors = {key: np.array(file[key]) for key in file}
    key = next(key for key in tensors if key.endswith("up.weight"))
    tensors[key][0] = np.nan
    safetensors.write(cat / "lora.safetensors", tensors, file.metadata)
    with pytest.raises(UserError, match=f"(?s)cannot be used:.*NaN or infinite: {key}"):
        export(cat, "kohya", tmp_path / "a.safetensors")


def test_a_dora_is_exported_as_it_is_or_baked(model, tmp_path, capsys):
    lora = {
        "unet": {
            path: adapter._replace(magnitude=np.full(len(adapter.up), 1.5, np.float32))
            for path, adapter in random_lora(model)["unet"].items()
        }
    }
    write_run(tmp_path / "run", lora, model)
    for to in ("kohya", "peft"):
        back = adapters_of(model, export(tmp_path / "run", to, tmp_path / to, 0.5))
        assert all((one.magnitude == 1.5).all() for one in back.values())
        path = next(iter(lora["unet"]))
        np.testing.assert_allclose(back[path].delta(), 0.5 * lora["unet"][path].delta(), rtol=1e-5)
    back = adapters_of(model, export(tmp_path / "run", "kohya", tmp_path / "baked", bake=3))
    assert all(one.magnitude is None and one.rank == 3 for one in back.values())
    assert "baked" in capsys.readouterr().out


def adapters_of(model, path):
    network = ModelFiles(model).abstract("unet")
    return read(path, {"unet": network})["unet"]
