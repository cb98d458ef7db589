"""YAML and flags to a Config: what is taken, and that every mistake is named."""

import pathlib

import pytest

from flax_sd import config_file
from flax_sd.config import Config
from flax_sd.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def write(tmp_path):
    def make(text):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return path

    return make


def test_flags_override_the_file_and_the_file_the_defaults(write):
    path = write("train: {steps: 7, batch_size: 2}\noptim: {learning_rate: 1e-5}\n")
    config = config_file.parse(path, ["--train.steps", "9", "--lora.rank=8"])
    assert (config.train.steps, config.train.batch_size, config.lora.rank) == (9, 2, 8)
    assert config.optim.learning_rate == 1e-5  # a string to YAML 1.1


@pytest.mark.parametrize(
    ("flags", "held_out"),
    [
        ([], "kin"),
        (["--data.path", "own"], "kin"),
        (["--data.path", "others"], None),
        (["--data.path", "others", "--data.held_out", "theirs"], "theirs"),
    ],
)
def test_held_out_pictures_go_with_those_that_they_were_held_out_of(write, caplog, flags, held_out):
    """U3: else a loss on other pictures is called that of the kind that was trained on."""
    config = config_file.parse(write("data: {path: own, held_out: kin}"), flags)
    assert config.data.held_out == held_out
    assert ("data.held_out kin of" in caplog.text) == (held_out is None)


def test_an_empty_file_is_the_defaults(write):
    assert config_file.parse(write(""), []) == Config()


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--data.random_flip"], "random_flip", True),
        (["--data.random-flip", "true"], "random_flip", True),
        (["--data.no_random_flip"], "random_flip", False),
        (["--data.random_flip=False"], "random_flip", False),
        (["--data.path", "-1"], "path", "-1"),
        (["--data.held_out", "a"], "held_out", "a"),
        (["--data.held_out", "none"], "held_out", None),
        (["--data.path", "none"], "path", "none"),
        (["--data.path", "a", "--data.path", "b"], "path", "b"),
    ],
)
def test_forms_of_flags(write, flags, name, value):
    path = write("data: {held_out: x}")
    assert getattr(config_file.parse(path, flags).data, name) == value


def test_a_tuple_takes_several_words_and_a_prompt_may_have_spaces(write):
    config = config_file.parse(write(""), ["--sample.prompts", "a cat", "b", "--mesh.data", "-1"])
    assert config.sample.prompts == ("a cat", "b") and config.mesh.data == -1
    assert (
        config_file.parse(write("sample: {prompts: [x]}"), ["--sample.prompts"]).sample.prompts
        == ()
    )


def test_a_mapping_takes_pairs(write):
    flags = ["--optim.rates", r"unet\.up=0.5", "a=b=2", "--seed", "3"]
    config = config_file.parse(write("optim: {rates: {x: 1}}"), flags)
    assert config.optim.rates == {r"unet\.up": 0.5, "a=b": 2.0} and config.seed == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--optim.rates", "unet"],
            "--optim.rates takes KEY=VALUE, any number of them, found unet",
        ),
        (["--lora.rnak", "4"], r"--lora.rnak: there is no such option; did you mean lora.rank\?"),
        (["--rank", "4"], r"--rank: there is no such option; did you mean lora.rank\?"),
        (["--xyzzy"], "--xyzzy: there is no such option$"),
        (["--no_seed"], "--no_seed: there is no such option"),
        (["--lora.rank"], "--lora.rank takes one value, found none"),
        (["--lora.rank", "4", "5"], "--lora.rank takes one value, found 2: 4 5"),
        (["true"], "true: there is no such option"),
        (["--train.steps", "x"], "train.steps: Input should be a valid integer.*, found 'x'"),
        (
            ["--data.resolution", "65"],
            "data.resolution: must be a multiple of 8 .*: 64, found '65'",
        ),
        (
            ["--train.mode", "lota"],
            "train.mode: Input should be 'lora', .*'vae' or 'ddpm', found 'lota'",
        ),
        (["--lora.rnak", "4", "--train.stebs", "4"], "\n  --lora.rnak.*\n  --train.stebs"),
        (
            ["--train.batch_size", "3", "--train.accumulate", "2"],
            "batch_size 3 is not divisible by",
        ),
    ],
)
def test_wrong_flags_are_named(write, flags, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        config_file.parse(write(""), flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora: {rnak: 4}", r"lora.rnak: there is no such option; did you mean lora.rank\?"),
        ("train: 5", "train: .*, found 5"),
        ("- a", "must hold options by name, found list"),
        ("a: [", "is not YAML"),
        ("seed: -1\nlora: {rank: 0}", "(?s)lora.rank: .*\n  seed: "),
    ],
)
def test_wrong_files_are_named(write, text, message):
    with pytest.raises(UserError, match=message):
        config_file.parse(write(text), ["--train.steps", "4"])


def test_a_missing_or_binary_file(tmp_path):
    with pytest.raises(UserError, match="nothing.yaml cannot be read: No such file"):
        config_file.load(tmp_path / "nothing.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="b.yaml is not UTF-8 text"):
        config_file.load(tmp_path / "b.yaml")


def test_one_problem_is_one_line(write):
    with pytest.raises(UserError) as caught:
        config_file.load(write("lora: {rnak: 4}"))
    assert "\n" not in str(caught.value)


def test_help_lists_every_option(write, capsys):
    with pytest.raises(SystemExit) as ended:
        config_file.parse(write(""), ["--help"])
    shown = capsys.readouterr().out.replace("-", "_")
    assert ended.value.code == 0
    assert all(f"__{name}" in shown for name in config_file.option_fields(Config))
    assert "__data.folders [PATH=REPEATS ...]" in shown  # as they are written, not tyro's own form


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_of_the_project_is_valid(path):
    config_file.load(path)
