"""A run of a LoRA: its files, and what the same command does again."""

import gzip
import json
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from flax_sd.errors import UserError
from flax_sd.training import optim
from flax_sd.weights.safetensors import TensorFile
from tests.training_runs import contents, make_images

FILES = {"config.yaml", "metrics.jsonl", "lora.safetensors", "pytorch_lora_weights.safetensors"}
REPORTS = {"report.html", "environment.json", "data_report.html", "quarantine.jsonl"}
REPORTS |= {"pictures.jsonl"}


def test_the_files_of_a_run_and_the_same_command_again(train):
    run = train("a", "--train.steps", 5)
    assert run.status == 0, run.err
    names = {path.name for path in run.folder.iterdir() if not path.name.startswith(".")}
    assert names == FILES | REPORTS | {"a.safetensors", "checkpoints", "loras", "finished.json"}
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4, 5]
    for line in run.metrics():
        head, pace = list(line)[:5], list(line)[5:]
        assert head == ["step", "loss", "grad_norm", "lr", "images_per_second"]
        assert pace == ["wait_share", "tflops", "host_gb"] and 0 <= line["wait_share"] <= 1
        assert np.isfinite(list(line.values())).all() and line["lr"] == 1e-3
    saved = sorted(path.name for path in (run.folder / "loras").iterdir())
    assert saved == [f"step-00000{n}{end}.safetensors" for n in (2, 4, 5) for end in ("", "_peft")]
    before = contents(run.folder)
    assert before["loras/step-000005.safetensors"] == before["lora.safetensors"]
    assert before["loras/step-000004.safetensors"] != before["lora.safetensors"]
    header = TensorFile(run.folder / "lora.safetensors").metadata
    assert header["ss_base_model_version"] == "sd_v1"
    assert b"/tmp" not in before["lora.safetensors"]

    again = train("a", "--train.steps", 5)
    assert again.status == 0 and "is finished at step 5" in again.out
    assert contents(run.folder) == before

    (run.folder / "lora.safetensors").unlink()
    assert train("a", "--train.steps", 5).status == 0
    assert contents(run.folder) == before


def test_what_is_said_before_step_one(train, images, tmp_path):
    data = make_images(tmp_path, 7)
    (data / "3.png").write_bytes((data / "3.png").read_bytes()[:100])
    run = train("out", "--data.path", data)
    assert run.status == 0, run.err
    said, trained = run.out.split("begins: ")
    assert f"{data}: 6 images, 6 captions, such as 'image number 0'; left out 1\n  3.png: " in said
    assert "left out 1" in said and "for 1 x cpu" in said and len(run.out.splitlines()) < 40
    assert "flags: data.path " in said and said.index("flags: ") < said.index("found: ")
    assert "step 4/4" in trained and "trains: a LoRA of rank" in trained and " it/s  " in trained
    assert "grad norm" not in trained and "weight_decay" not in said


def test_more_is_said_before_step_one_if_asked_for(train, images):
    run = train("out", "-v")
    said, trained = run.out.split("begins: ")
    assert said.count("'image number") == 3 and "  grad norm " in trained
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    printed = yaml.safe_load(said.split("\n   ")[0])
    assert printed == config and config["lora"]["alpha"] is None


def test_epochs_and_steps_the_smaller_ends_the_run_and_its_schedule(train, monkeypatch):
    totals, make = [], optim.make_optimizer

    def spy(cfg, total):
        totals.append(total)
        return make(cfg, total)

    monkeypatch.setattr(optim, "make_optimizer", spy)
    flags = ["--train.epochs", 2, "--train.batch_size", 7, "--optim.schedule", "linear"]
    run = train("a", *flags, "--train.steps", 50)
    assert [line["lr"] for line in run.metrics()] == [1e-3, 5e-4] and totals == [2]
    assert train("b", "--train.epochs", 9, "--train.steps", 1).metrics()[-1]["step"] == 1


def test_a_step_is_made_as_the_options_say(train, monkeypatch):
    """Most of them change no result that could be told from rounding."""
    seen = {}

    def make(loss, tx, **options):
        seen.update(options)
        raise UserError("enough is known")

    monkeypatch.setattr("flax_sd.training.run.train_step.make_train_step", make)
    flags = ["--train.accumulate", 2, "--train.ema_decay", 0.5, "--lora.max_norm", 1]
    assert "enough is known" in train("a", *flags, "--compute_dtype", "float16").err
    assert (seen["accumulate"], seen["ema_decay"], seen["scaled"]) == (2, 0.5, True)
    assert seen["constrain"] is not None and seen["mesh"] is not None
    train("b")
    assert (seen["accumulate"], seen["ema_decay"], seen["scaled"]) == (1, None, False)
    assert seen["constrain"] is None


def test_the_seed_draws_noise_and_timesteps(train, tmp_path):
    (tmp_path / "one").mkdir()
    folder = make_images(tmp_path / "one", 1)
    Image.open(folder / "0.png").resize((32, 32)).save(folder / "0.png")  # no place is drawn
    flags = ["--data.path", folder, "--train.steps", 1]  # before which a new LoRA adds nothing
    losses = {train(str(seed), *flags, "--seed", seed).metrics()[0]["loss"] for seed in (0, 1)}
    assert len(losses) == 2


def test_wandb_is_asked_for_by_its_option(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    run = train("a", "--log.wandb", "true", "--train.steps", 1)
    assert run.status == 2 and "flax_sd[wandb]" in run.err


def test_the_log_has_the_mean_loss_of_the_steps_since_the_line_before(train):
    """U4: the loss of one step says mostly which timesteps it drew."""
    each = [line["loss"] for line in train("a").metrics()]
    twos = [line["loss"] for line in train("b", "--log.every", 2).metrics()]
    assert twos == pytest.approx([np.mean(each[:2]), np.mean(each[2:])], rel=1e-6)


def test_held_out_loss_before_and_after(train, tmp_path):
    (tmp_path / "held").mkdir()
    held = make_images(tmp_path / "held", 3, seed=5)
    run = train("a", "--data.held_out", held, "--log.every", 3)
    first, middle, last = run.metrics()
    assert first.keys() == {"step", "val_loss", "val_loss_ci"} and first["step"] == 0
    assert middle["step"] == 3 and "val_loss" not in middle
    assert last["step"] == 4 and {"loss", "val_loss"} < last.keys()
    assert last["val_loss_change"] == pytest.approx(last["val_loss"] - first["val_loss"], rel=1e-6)
    assert last["val_loss_change_ci"] > 0 and last["val_loss_change"] != 0
    shown = f"{last['val_loss_change']:+.4f} ± {last['val_loss_change_ci']:.4f}"
    assert f"val_loss {first['val_loss']:.4f} ± {first['val_loss_ci']:.4f} on 3 held" in run.out
    assert shown in run.out
    text = (run.folder / "validation.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["step"], line["set"], line["count"]) for line in lines] == [
        (0, "val_loss", 3),
        (4, "val_loss", 3),
    ]
    assert lines[1]["mean"] == last["val_loss"] and lines[1]["change"] == last["val_loss_change"]
    assert np.mean([band[2] for band in lines[1]["bands"]]) == pytest.approx(last["val_loss"])


def test_sample_grids_and_the_sheet(train):
    flags = ["--sample.every", 2, "--sample.steps", 2, "--sample.prompts", "a cat", "a dog"]
    run = train("a", *flags, "--train.steps", 5)
    assert run.status == 0, run.err
    names = sorted(path.name for path in (run.folder / "samples").iterdir())
    grids = [f"step-00000{n}.png" for n in (0, 2, 4, 5)]
    assert names == ["before.npz", "before_after.png", *grids]
    before = contents(run.folder)
    assert before["samples/step-000000.png"] != before["samples/step-000004.png"]
    train("a", *flags, "--train.steps", 5)
    assert contents(run.folder) == before

    # Longer: the sheet is drawn anew, the earlier grids stay.
    longer = train("a", *flags, "--train.steps", 6)
    assert longer.out.count("sampled: ") == 1, longer.out
    after = contents(run.folder)
    assert after["samples/before_after.png"] != before["samples/before_after.png"]
    assert all(after[f"samples/{name}"] == before[f"samples/{name}"] for name in grids)


def test_samples_before_the_first_step_may_be_left_out(train):
    """D: `--sample_at_first`; a run that goes on does not make up for them."""
    flags = ["--sample.every", 2, "--sample.steps", 2, "--sample.prompts", "a cat", "a dog"]
    run = train("a", *flags, "--sample.at_first", "false", "--train.steps", 3)
    grids = ["step-000002.png", "step-000003.png"]
    assert sorted(path.name for path in (run.folder / "samples").iterdir()) == grids
    assert train("a", *flags, "--train.steps", 4).status == 0
    grids.append("step-000004.png")
    assert sorted(path.name for path in (run.folder / "samples").iterdir()) == grids


def test_sample_every_alone_draws_captions_of_the_data(train):
    """D: `every_epochs` alone too; an epoch of seven images ends in the fourth step of two."""
    epochs = ["--sample.every_epochs", 1, "--checkpoint.every_epochs", 1, "--checkpoint.every", 9]
    run = train("a", *epochs, "--sample.steps", 1, "--train.steps", 5)
    for folder, steps in (("samples", (0, 4, 5)), ("loras", (4, 5))):
        names = sorted(path.stem for path in (run.folder / folder).glob("step-??????.*"))
        assert names == [f"step-00000{step}" for step in steps]
    with np.load(run.folder / "samples" / "before.npz") as kept:
        assert kept["prompts"].tolist() == [f"image number {i}" for i in range(4)]


def test_captions_that_are_held_out_are_drawn_where_there_are_such(train, tmp_path):
    (tmp_path / "held").mkdir()
    held = make_images(tmp_path / "held", 2, seed=5)
    path = held / "metadata.jsonl"
    path.write_text(path.read_text().replace("image number", "held out number"))
    flags = ["--sample.every", 3, "--sample.steps", 1, "--train.steps", 1]
    run = train("a", *flags, "--data.held_out", held)
    with np.load(run.folder / "samples" / "before.npz") as kept:
        assert kept["prompts"].tolist() == ["held out number 0", "held out number 1"]


@pytest.mark.parametrize("sampler", ["euler_a"])
def test_sample_options_change_the_images(train, sampler):
    def first(output, *flags):
        flags = ["--sample.steps", 2, "--sample.prompts", "a cat", *flags]
        return (
            train(output, "--train.steps", 1, *flags).folder / "samples/step-000000.png"
        ).read_bytes()

    images = {
        first("a"),
        first("b", "--sample.seed", 1),
        first("c", "--sample.guidance_scale", 1),
        first("d", "--sample.sampler", sampler),
        first("e", "--sample.steps", 3),
        first("f", "--model.clip_skip", 1),
    }
    assert len(images) == 6


def test_trackers_get_numbers_and_images(train):
    flags = ["--log.tensorboard", "--sample.prompts", "a", "--sample.steps", 1]
    run = train("a", *flags)
    events = b"".join(path.read_bytes() for path in (run.folder / "tensorboard").iterdir())
    assert b"grad_norm" in events and b"samples" in events and b"PNG" in events
    assert b"before_after" in events and b"flax_sd_source" in events


def test_one_step_resumed_at_every_step_is_json(train):
    run = train("a", "--train.steps", 1, "--checkpoint.every", 1)
    assert json.loads((run.folder / "finished.json").read_text()) == {"step": 1}
    train("a", "--train.steps", 2, "--checkpoint.every", 1)
    assert json.loads((run.folder / "finished.json").read_text()) == {"step": 2}


def test_a_profile_traces_the_steps_asked_for(train):
    run = train("out", "--train.steps", 5, "--profile", "3:4")
    assert run.status == 0, run.err
    (trace,) = (run.folder / "profile").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = [int(e["args"]["step_num"]) for e in events if "step_num" in e.get("args", ())]
    assert set(steps) == {3, 4}


@pytest.mark.parametrize("steps", ["3", "0:2", "4:3"])
def test_steps_to_trace_that_are_none_are_refused(train, steps):
    refused = train("other", "--profile", steps)
    assert refused.status == 2 and "profile" in refused.err
