"""What single files are, by the shapes and names that the public ones have."""

import pytest

from flax_sd.errors import UserError
from flax_sd.weights.ldm.facts import Facts, read_facts
from flax_sd.weights.ldm.parts import UNET, parts_of
from tests.weights.ldm.public import FOLDERS, whole

CROSS = f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
FIRST = f"{UNET}input_blocks.0.0.weight"


def facts(shapes, **metadata):
    metadata = {f"modelspec.{key}": value for key, value in metadata.items()}
    return read_facts(shapes, metadata, parts_of(shapes), "x.safetensors")


def unet(width=768, channels=4, **marks):
    return {FIRST: (320, channels, 3, 3), CROSS: (640, width), **dict.fromkeys(marks, (0,))}


@pytest.mark.parametrize("family", FOLDERS)
def test_public_models(public, family):
    found = facts(whole(public, family))
    assert (found.template, found.family, found.task) == (family, family, "text-to-image")
    assert found.prediction is None  # trap 19: as in every file without a mark


@pytest.mark.parametrize(
    ("width", "template", "family"),
    [
        (768, "sd1", "sd1"),
        (1024, "sd2", "sd2"),
        (2048, "sdxl", "sdxl"),
        (1280, "sdxl_refiner", "sdxl"),
    ],
)
def test_a_unet_alone_tells_by_the_width_of_its_text(width, template, family):
    """Traps 4 and 15."""
    found = facts(unet(width))
    assert (found.template, found.family) == (template, family)


def test_stable_diffusion_2_in_sgm_form(public):
    """Trap 4: its text encoder has the refiner's prefix."""
    shapes = {
        name.replace("cond_stage_model.", "conditioner.embedders.0."): shape
        for name, shape in whole(public, "sd2").items()
    }
    assert facts(shapes).template == "sd2"
    assert {part.component for part in parts_of(shapes)} == {"unet", "vae", "text_encoder"}


def test_a_vae_tells_no_family():
    found = facts({"decoder.conv_in.weight": (512, 4, 3, 3)})
    assert found.template is None and found.family is None


def test_tasks():
    """Trap 15; and trap 19: 2.0's inpainting model predicts noise."""
    assert facts(unet(channels=9)) == Facts("sd1", "inpainting")
    assert facts(unet(channels=8)) == Facts("sd1", "edit")
    assert facts(unet(1024, channels=9)) == Facts("sd2", "inpainting", "epsilon")
    with pytest.raises(
        UserError, match="has shape .320, 5, 3, 3.; the second number.* should be one of 4"
    ):
        facts(unet(channels=5))


def test_marks_of_the_prediction():
    """Trap 17."""
    assert facts(unet(2048, v_pred=1)).prediction == "v_prediction"
    assert facts(unet(2048, v_pred=1)).zero_snr is False
    assert facts(unet(2048, v_pred=1, ztsnr=1)).zero_snr is True
    assert facts(unet(), prediction_type="v").prediction == "v_prediction"
    assert facts(unet(1024), predict_key="epsilon").prediction == "epsilon"
    assert facts(unet(1024), architecture="stable-diffusion-v2-512").prediction == "epsilon"
    assert facts(unet(1024)).prediction is None  # trap 19


def test_marks_that_are_not_supported():
    """Traps 17 and 20."""
    with pytest.raises(UserError, match="say modelspec.prediction_type rectified_flow; only eps"):
        facts(unet(2048), prediction_type="rectified_flow")


def test_marks_that_contradict_each_other_tell_nothing():
    said = facts(unet(2048, v_pred=1), predict_key="epsilon")
    assert said.prediction is None and "the tensor v_pred and modelspec.pred" in said.unclear
    assert facts(unet(2048, v_pred=1), predict_key="v-pred").unclear is None


@pytest.mark.parametrize(
    ("resolution", "side"), [("768x768", 768), ("1024", 1024), ("768x512", None), ("big", None)]
)
def test_the_side_of_square_images(resolution, side):
    assert facts(unet(), resolution=resolution).side == side
