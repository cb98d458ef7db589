"""What is answered to an option or a value of another trainer."""

import pytest

from flax_sd.config import Config, coming_from, file
from flax_sd.config.flags import read_flags
from flax_sd.config.section import choices, option_fields
from flax_sd.errors import UserError
from flax_sd.generation.options import SampleOptions

FIELDS = option_fields(Config)
QUICKSTART = file.config_path("quickstart")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--lr 1e-4", "--lr: there is no such option here; for that of other programs use --optim"),
        ("--network_dim 8", "for that of sd-scripts use --lora.rank (their default of alpha is 1,"),
        ("--network-alpha 8", "--network_alpha: there is no such option here; for that of sd-s"),
        (
            "--resolution 512",
            "for that of diffusers and sd-scripts use --data.resolution (sd-scripts: the side of",
        ),
        ("--seeds 1", "--seeds: there is no such option; did you mean seed?"),
        ("--clip_skip 2", "use --model.clip_skip 1 (theirs counts the last layer as 1, ours"),
        ("--v2", "that of sd-scripts is not needed: it is in the model's configs"),
        ("--prediction_type epsilon", "for that of diffusers use --model.prediction_type ("),
        ("--bucket_no_upscale", "use --data.bucket_upscale (off) (by default ours depend"),
        ("--resume x", "instead of that of sd-scripts: run the same command again"),
        ("--use_8bit_adam", "for that of diffusers use --optim.method adamw8bit; for"),
        ("--log_config", "instead of that of sd-scripts: always: the options are sent"),
        ("--caption_extension .txt", "use .txt files, metadata.jsonl, metadata.csv (each line"),
    ],
)
def test_a_flag_by_habit_is_answered_with_ours(flags, said):
    with pytest.raises(UserError) as caught:
        file.parse(QUICKSTART, flags.split())
    assert said in str(caught.value) and "`" not in str(caught.value)
    assert "](" not in str(caught.value)


def test_a_key_by_habit_too(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("lora: {network_dim: 4}\nlr: 1e-4")
    with pytest.raises(UserError) as caught:
        file.load(path)
    assert "lora.network_dim: there is no such option here; for that of" in str(caught.value)
    assert "lr: there is no such option here; for that of other programs use --optim" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--train.mode lroa", "found 'lroa'; did you mean lora?"),
        ("--optim.method AdamW8bit", "found 'AdamW8bit'; did you mean adamw8bit?"),
        ("--optim.method DAdaptAdam", "found 'DAdaptAdam', which is dadapt here"),
        ("--compute_dtype fp16", "found 'fp16', which is float16 here"),
        ("--save_dtype float", "found 'float', which is float32 here"),
        ("--data.interpolation area", "found 'area', which is box here"),
    ],
)
def test_a_value_by_habit_is_answered_with_ours(flags, said):
    with pytest.raises(UserError, match="should be ") as caught:
        file.parse(QUICKSTART, flags.split())
    assert said in str(caught.value)


def test_the_values_of_the_table_are_ours():
    for row in coming_from.rows():
        fields = FIELDS if set(row.options()) & FIELDS.keys() else SampleOptions.model_fields
        for name in row.options() if row.values else ():
            assert set(row.values.values()) <= {*choices(fields[name])}
            assert not {*row.values} & {*choices(fields[name])}


@pytest.mark.parametrize("name", option_fields(Config))
def test_every_option_of_a_list_names_the_nearest(name):
    listed = [value for value in choices(FIELDS[name]) if isinstance(value, str)]
    for value in listed:
        with pytest.raises(UserError, match=f"did you mean {value}|is {value} here"):
            file.parse(QUICKSTART, [f"--{name}", f"{value[0]}_{value[1:]}"])


def test_sampling_has_names_of_its_own():
    with pytest.raises(UserError) as caught:
        read_flags(
            SampleOptions, ["--ckpt", "m", "--num-inference-steps", "9", "--v2", "--lr", "1"]
        )
    lines = str(caught.value).splitlines()
    assert lines[1].endswith("use --model") and lines[2].endswith("use --steps")
    assert lines[3] == "  --v2: there is no such option" and lines[4].startswith("  --lr: there")
