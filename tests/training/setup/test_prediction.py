"""Another prediction type and pure noise at the end, from training to every file and image."""

from diffusers import DDIMScheduler

from flax_sd import cli
from flax_sd.weights.diffusers_folder import read_json
from flax_sd.weights.safetensors import TensorFile

VELOCITY = ["--model.prediction_type", "v_prediction"]
PURE = [*VELOCITY, "--model.zero_snr", "true"]
DRAWN = ["--sample.prompts", "a cat", "--sample.steps", 2, "--sample.guidance_scale", 1]


def test_each_option_changes_the_loss_and_the_samples(train):
    runs = [train(str(i), *flags, *DRAWN) for i, flags in enumerate([[], VELOCITY, PURE])]
    assert [run.status for run in runs] == [0, 0, 0], runs[-1].err
    losses = [run.metrics()[0]["loss"] for run in runs]
    assert len(set(losses)) == 3
    grids = {(run.folder / "samples/step-000000.png").read_bytes() for run in runs}
    assert len(grids) == 3


def test_the_files_of_a_lora_and_its_merged_model_say_so(train, tmp_path):
    run = train("a", *PURE)
    header = TensorFile(run.folder / "lora.safetensors").metadata
    assert header["modelspec.prediction_type"] == "v"
    out = tmp_path / "merged"
    assert cli.export([str(run.folder), "--to", "merged", "--out", str(out)]) == 0
    scheduler = DDIMScheduler.from_pretrained(out, subfolder="scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.rescale_betas_zero_snr and float(scheduler.alphas_cumprod[-1]) < 1e-6


def test_a_model_trained_whole_has_it_in_its_scheduler(train, tmp_path):
    run = train("a", *PURE, "--train.mode", "full")
    config = read_json(run.folder / "model/scheduler/scheduler_config.json")
    assert config["prediction_type"] == "v_prediction" and config["rescale_betas_zero_snr"]
    out = tmp_path / "again"
    assert cli.export([str(run.folder), "--to", "diffusers", "--out", str(out)]) == 0
    assert read_json(out / "scheduler/scheduler_config.json") == config


def test_the_sampling_command_takes_the_same_two(model, tmp_path):
    def drawn(name, *flags):
        out = tmp_path / name
        size = ["--steps", "2", "--width", "16", "--height", "16"]
        args = ["--model", str(model), "--prompt", "a", "--out", str(out), *size, *flags]
        assert cli.sample(args) == 0
        (record,) = (out / "metadata.jsonl").read_text().splitlines()
        return next(out.glob("*.png")).read_bytes(), record

    velocity = ["--prediction-type", "v_prediction"]
    images = [drawn("a"), drawn("b", *velocity), drawn("c", *velocity, "--zero-snr")]
    assert len({image for image, _ in images}) == 3
    assert "v_prediction" in images[1][1] and "zero_snr" in images[2][1]
    assert "zero_snr" not in images[1][1] and "prediction" not in images[0][1]


def test_pure_noise_without_velocity_is_one_sentence(train):
    run = train("a", "--model.zero_snr", "true")
    assert run.status == 2 and "model.zero_snr: the last timestep" in run.err


def test_the_sampling_command_refuses_it_too(model, tmp_path, capsys):
    args = ["--model", str(model), "--prompt", "a", "--out", str(tmp_path / "o"), "--zero-snr"]
    assert cli.sample(args) == 2
    assert "--zero-snr: the last timestep" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
