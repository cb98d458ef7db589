"""What a run says last."""

import json
import pathlib

import pytest

from flax_sd.config import Config
from flax_sd.training.outputs.summary import summary
from tests.training_runs import make_images


@pytest.fixture
def finished(tmp_path):
    """The summary of a run with these metrics and options."""

    def make(*rows, **options):
        text = "".join(json.dumps({"step": i, **row}) + "\n" for i, row in enumerate(rows))
        (tmp_path / "metrics.jsonl").write_text(text)
        return "\n".join(summary(Config.model_validate({"output": str(tmp_path), **options})))

    return make


def test_losses_stand_before_and_after(finished):
    first, last = {"val_loss": 0.08, "base_loss": 0.05}, {"val_loss": 0.06, "base_loss": 0.051}
    text = finished(first, {"loss": 1.0}, last)
    assert "val_loss  0.0800 -> 0.0600  -25.0% (its interval is not known)" in text
    assert "base_loss 0.0500 -> 0.0510  +2.0% (its interval is not known)" in text
    assert "without the LoRA the model is unchanged" in text
    assert "LoRA off" not in finished(first, last, train={"mode": "full"})


def test_the_interval_of_a_change_is_in_percent_of_the_loss_before(finished):
    last = {"val_loss": 0.06, "val_loss_change": -0.02, "val_loss_change_ci": 0.004}
    assert "-25.0% ± 5.0%  held-out" in finished({"val_loss": 0.08}, last)


def test_without_measures_it_only_says_what_to_try(finished):
    for rows in ([], [{"loss": 1.0}], [{"val_loss": 0.1}], [{"val_loss": None}, {"val_loss": 0.1}]):
        text = finished(*rows)
        assert "->" not in text and "flax-sd sample" in text and "flax-sd train" in text


def test_the_best_state_is_named(finished, tmp_path):
    finished({"val_loss": 0.08}, {"val_loss": 0.05}, {"val_loss": 0.06})
    config = Config.model_validate({"output": str(tmp_path)})
    text = "\n".join(summary(config, 1))
    assert f"lowest val_loss 0.0500 at step 1: {tmp_path}/{tmp_path.name}_best.safetensors" in text
    assert "least" not in "\n".join(summary(config))


@pytest.mark.parametrize(
    ("half", "said"), [(0.02, ""), (0.04, ", no measurable change since step 0")]
)
def test_a_best_state_that_is_no_measurable_improvement_is_not_one(finished, tmp_path, half, said):
    best = {"val_loss": 0.05, "val_loss_change": -0.03, "val_loss_change_ci": half}
    finished({"val_loss": 0.08}, best, {"val_loss": 0.06})
    (line,) = [
        line
        for line in summary(Config.model_validate({"output": str(tmp_path)}), 1)
        if "lowest" in line
    ]
    assert line.startswith(f"lowest val_loss 0.0500 at step 1{said}: ")


def test_metrics_that_are_gone_or_damaged_are_left_out(finished, tmp_path):
    finished({"val_loss": 0.1}, {"val_loss": 0.2})
    config = Config.model_validate({"output": str(tmp_path)})
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "val')
    assert "->" not in "".join(summary(config))
    (tmp_path / "metrics.jsonl").unlink()
    assert "->" not in "".join(summary(config))


def test_the_commands_are_those_of_the_run(finished, tmp_path):
    text = finished(sample={"prompts": ["a cat's hat"]}, train={"steps": 30}, model={"path": "m"})
    assert f"flax-sd sample --model m --prompt 'a cat'\"'\"'s hat' --lora {tmp_path}/" in text
    assert (
        f"/{tmp_path.name}.safetensors:0.8 --seed 1\n" in text
        and f"flax-sd train {tmp_path}/config.yaml --train.steps 60" in text
    )
    assert f"--model {tmp_path}/model " in finished(train={"mode": "full"})
    assert finished(train={"mode": "vae"}) == ""


def test_the_command_draws_with_what_the_run_was_trained_with(finished, tmp_path):
    options = {"clip_skip": 1, "revision": "v1", "vae": "b/c", "prediction_type": "v_prediction"}
    model = {"path": "a/b", "zero_snr": True, **options}
    text = finished(model=model, data={"max_token_length": 150})
    for flag in ("--clip-skip 1", "--revision v1", "--vae b/c", "--prediction-type v_prediction"):
        assert flag in text
    assert "--zero-snr" in text and "--max-token-length 150" in text
    text = finished(model=model, train={"mode": "full"})
    assert "--clip-skip 1" in text and "--vae" not in text and "--zero-snr" not in text


def test_a_run_ends_with_both_losses(train, tmp_path):
    style, base = tmp_path / "style", tmp_path / "base"
    for seed, folder in enumerate((style, base)):
        folder.mkdir()
        make_images(folder, 2 + seed, seed=seed)
    run = train("a", "--data.held_out", style, "--data.held_out_base", base)
    assert run.status == 0, run.err
    first, *_, last = run.metrics()
    assert first["step"] == 0 and {"val_loss", "base_loss"} <= first.keys() & last.keys()
    assert first["val_loss"] != first["base_loss"] != last["base_loss"]
    assert f"base_loss {first['base_loss']:.4f} ± " in run.out and "on 3 held-out" in run.out
    assert f"base_loss {first['base_loss']:.4f} -> {last['base_loss']:.4f}" in run.out
    assert pathlib.Path(run.folder / "lora.safetensors").is_file()
    for stage in ("found:", "loaded:", "compiled:", "trained: to step 4", "written:"):
        assert stage in run.out


def test_a_run_that_patience_ended_is_longer_with_more_of_it(tmp_path):
    values = {"every": 2, "patience": 3}
    config = Config.model_validate(
        {"output": str(tmp_path), "validation": values, "data": {"held_out": "bundled:style"}}
    )
    text = "\n".join(summary(config, early=True))
    assert "--validation.patience 6" in text and "--train.steps" not in text
