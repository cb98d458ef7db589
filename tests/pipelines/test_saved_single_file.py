"""What `sd.save` writes as one file is what diffusers' `from_single_file` reads."""

import warnings

import diffusers
import numpy as np
import pytest

import flax_sd
from flax_sd.errors import UserError
from flax_sd.weights.ldm.single_file import SingleFile
from flax_sd.weights.safetensors import TensorFile, write
from tests import tiny
from tests.parity import NETWORK, assert_close
from tests.tiny import NEGATIVES, NOISE, PROMPTS, SEEDS
from tests.weights.ldm import tiny_files

PREDICTIONS = {"sd1": "epsilon", "sd2": "v_prediction", "sdxl": "epsilon"}
GIVEN = {**tiny.STEPS, "guidance_scale": 6.0}
CLASSES = {"sdxl": diffusers.StableDiffusionXLPipeline}


@pytest.fixture(scope="module", params=PREDICTIONS)
def saved(request, tmp_path_factory):
    """A family, its folder, and the file that we write of it."""
    family, root = request.param, tmp_path_factory.mktemp("saved")
    pipeline = tiny_files.build(family)
    pipeline.scheduler = diffusers.DDIMScheduler(
        clip_sample=False, prediction_type=PREDICTIONS[family], **NOISE
    )
    pipeline.save_pretrained(root / "folder")
    flax_sd.StableDiffusion.load(root / "folder").save(root / "model.safetensors")
    return family, root / "folder", root / "model.safetensors"


def test_diffusers_reads_it_and_draws_the_same(saved):
    """Traps 1, 2, 3, 4 and 23."""
    family, folder, file = saved
    cls = CLASSES.get(family, diffusers.StableDiffusionPipeline)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = cls.from_single_file(file, config=str(folder), local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    if family != "sdxl":
        theirs.safety_checker = None
    ours = flax_sd.StableDiffusion.load(file, config=folder)
    drawn = ours.generate(PROMPTS, NEGATIVES, seed=SEEDS, output="latents", **GIVEN)
    assert_close(drawn, tiny.draw(theirs, PROMPTS, NEGATIVES, SEEDS, **GIVEN), NETWORK)
    unsaved = flax_sd.StableDiffusion.load(folder)
    again = unsaved.generate(PROMPTS, NEGATIVES, seed=SEEDS, output="latents", **GIVEN)
    np.testing.assert_array_equal(drawn, again)


def test_it_says_what_it_predicts(saved):
    """Traps 17 and 19: without the folder of configs too."""
    family, _, file = saved
    said = TensorFile(file).metadata
    assert said["modelspec.title"] == "folder" and "flax_sd_export" not in said
    facts = SingleFile(file).facts
    assert (facts.template, facts.prediction) == (family, PREDICTIONS[family])
    assert facts.side == 24


def test_it_is_saved_again_and_replaces_no_other_file(saved, tmp_path):
    _, folder, file = saved
    sd = flax_sd.StableDiffusion.load(file, config=folder)
    path = tmp_path / "model.safetensors"
    for _ in range(2):
        sd.save(path)
    ours, before = TensorFile(path), TensorFile(file)
    assert ours.keys() == before.keys()
    assert all(np.array_equal(ours[key], before[key]) for key in ours)
    path.write_text("mine")
    with pytest.raises(UserError, match="exists and is not a checkpoint in one file; name a new"):
        sd.save(path)
    assert path.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_an_old_mean_is_not_saved(saved, tmp_path):
    """Trap 24: it is of other weights than those in memory, and the rest is kept."""
    family, folder, file = saved
    if family != "sdxl":
        pytest.skip("one family is enough")
    tensors = dict(TensorFile(file))
    scale = "conditioner.embedders.1.model.logit_scale"
    tensors |= {"model_ema.decay": np.ones((), np.float32), scale: np.array(4.6055, np.float32)}
    write(tmp_path / "a.safetensors", tensors)
    flax_sd.StableDiffusion.load(tmp_path / "a.safetensors", config=folder).save(
        tmp_path / "b.safetensors"
    )
    again = TensorFile(tmp_path / "b.safetensors")
    assert again.keys() == TensorFile(file).keys()
    assert again[scale] == np.float32(4.6055)  # trap 5
