import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from flax_sd.lora.formats import kohya, kohya_families
from flax_sd.lora.formats.read import read
from tests.lora.formats.files import SMALL, Q, assert_same_updates, header, lora_of


def test_kohya_file_with_one_alpha_is_written_as_it_is(tmp_path):
    lora = lora_of([6.0] * 5)
    said = kohya_families.metadata("sd2", {"prediction_type": "v_prediction"})
    kohya.write(tmp_path / "a", lora, said)
    tensors = load_file(tmp_path / "a")
    assert len(tensors) == 15 and tensors[f"{Q}.alpha"].shape == ()
    assert tensors[f"{Q}.alpha"].dtype == np.float32 and tensors[f"{Q}.alpha"] == 6
    np.testing.assert_array_equal(tensors[f"{Q}.lora_up.weight"], lora["unet"]["attn2.to_q"].up)
    assert tensors["lora_unet_conv_down.lora_down.weight"].shape == (2, 6, 3, 3)
    assert header(tmp_path / "a") == {
        "modelspec.architecture": "stable-diffusion-v2-768-v/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.prediction_type": "v",
        "modelspec.resolution": "768x768",
        "modelspec.sai_model_spec": "1.0.1",
        "ss_base_model_version": "sd_v2_v",
        "ss_network_alpha": "6.0",
        "ss_network_args": "{}",
        "ss_network_dim": "2",
        "ss_network_module": "networks.lora",
        "ss_v2": "True",
        "ss_zero_terminal_snr": "False",
    }


@pytest.mark.parametrize(
    ("family", "prediction", "version"),
    [("sd1", "epsilon", "sd_v1"), ("sd2", "epsilon", "sd_v2"), ("sd2", "v_prediction", "sd_v2_v")],
)
def test_base_versions(family, prediction, version):
    metadata = kohya_families.metadata(family, {"prediction_type": prediction})
    assert metadata["ss_base_model_version"] == version
    assert metadata["ss_v2"] == ("True" if family == "sd2" else "False")


@pytest.mark.parametrize(("prediction", "said"), [("epsilon", "epsilon"), ("v_prediction", "v")])
def test_the_header_of_sdxl(prediction, said):
    """Trap 25: A1111 hides a LoRA of SDXL whose header does not say so."""
    scheduler = {"prediction_type": prediction, "rescale_betas_zero_snr": said == "v"}
    assert kohya_families.metadata("sdxl", scheduler) == {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_v2": "False",
        "ss_zero_terminal_snr": str(said == "v"),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.prediction_type": said,
        "modelspec.resolution": "1024x1024",
    }
    assert kohya_families.metadata("sdxl", {}, 768)["modelspec.resolution"] == "768x768"


@pytest.mark.parametrize("alpha", [0.0, 1e-50, -1.5])
def test_no_alpha_is_written_that_readers_take_otherwise(tmp_path, alpha):
    """B6: sd-scripts reads an alpha of 0 as the rank."""
    lora = lora_of([alpha] * 5)
    kohya.write(tmp_path / "a", lora)
    tensors = load_file(tmp_path / "a")
    for key, tensor in tensors.items():
        if key.endswith(".alpha"):
            assert tensor == 2  # the rank
    assert_same_updates(lora["unet"], read(tmp_path / "a", {"unet": SMALL})["unet"])
    assert header(tmp_path / "a")["ss_network_alpha"] == "2.0"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_dtypes_leave_alpha_in_float32(tmp_path, dtype):
    kohya.write(tmp_path / "a", lora_of([2049.0] * 5), dtype=dtype)
    adapter = read(tmp_path / "a", {"unet": SMALL})["unet"]["attn2.to_q"]
    assert adapter.alpha == 2049  # float16 would say 2048
    np.testing.assert_array_equal(adapter.up, adapter.up.astype(dtype).astype(np.float32))
