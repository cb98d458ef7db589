"""What a run says before it begins."""

import io
import pathlib

import pytest
from rich.console import Console

from flax_sd.config import file
from flax_sd.config.commands import TrainOptions
from flax_sd.system.progress import Progress
from flax_sd.training.announcement import show_options, what_happens

QUICKSTART = file.config_path("quickstart")


def shown(*flags):
    out = io.StringIO()
    _, given = file.from_args(TrainOptions, ["quickstart", *flags])
    progress = Progress(Console(file=out, width=100))
    show_options(given.config, given.path, given.flags, progress)
    return out.getvalue()


def test_options_that_differ_are_apart_by_where_they_were_set(monkeypatch):
    monkeypatch.chdir(QUICKSTART.parents[1])
    said = shown("--train.steps", "7", "--lora.rank", "4", "--output", "/tmp/x")
    recipe, flags = said.split("flags: ")
    assert recipe.startswith("configs/quickstart.yaml: data.resolution 128, ")
    assert "sample.prompts (8 of them)" in recipe and "optim.schedule cosine" in recipe
    assert (
        "data.center_crop true, " in recipe
        and "train.steps" not in recipe
        and "train.mode" not in said
        and "model.path" not in said
    )
    assert flags.splitlines() == [
        "train.steps 7, lora.rank 4, output /tmp/x",
        "every other option has its default: /tmp/x/config.yaml has all",
    ]
    assert "flags: data.held_out none" in shown("--data.held_out", "none")
    assert "flags:" not in shown() and len(said.splitlines()) <= 8
    assert all(len(line) <= 100 for line in said.splitlines())


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        (
            ["--checkpoint.every_epochs", "2"],
            [
                "trains: a LoRA of rank 16 (all-linear) for the unet, with adamw",
                "saves:  every 100 steps and every 2 epochs, and after the last step, in runs/x",
                "losses: of data.held_out and data.held_out_base, before and after the run",
                "images: of 8 prompts, before and after the run",
            ],
        ),
        (
            ["--validation.every", "9", "--sample.every", "5", "--train.text_encoder"],
            [
                "trains: a LoRA of rank 16 (all-linear) for the unet and text encoder, with adamw",
                "saves:  every 100 steps, and after the last step, in runs/x",
                "losses: of data.held_out and data.held_out_base, every 9 steps",
                "images: of 8 prompts, every 5 steps",
            ],
        ),
        (
            ["--train.mode", "full", "--data.held_out", "none", "--data.held_out_base", "none"]
            + ["--sample.prompts", "none", "--optim.method", "lion"],
            [
                "trains: all of the unet, with lion",
                "saves:  every 100 steps, and after the last step, in runs/x",
            ],
        ),
        (
            ["--train.mode", "textual_inversion", "--tokens.names", "<x>=cat"],
            ["trains: the new words <x>, with adamw"],
        ),
    ],
)
def test_what_is_trained_and_written_is_said(flags, lines):
    config = file.parse(QUICKSTART, ["--output", "runs/x", *flags])
    said = [*what_happens(config)]
    assert said[: len(lines)] == lines and said[-1].startswith("the time that is left")
    assert len(said) <= 5 and config.output == pathlib.Path("runs/x")
