"""YAML and flags to a Config: what is taken, and that every mistake is named."""

import functools
import pathlib

import pytest
import yaml

from flax_sd.config import Config, file, former_names, to_dict
from flax_sd.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path):
    def make(text):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return path

    return make


def test_flags_override_the_file_and_the_file_the_defaults(write):
    path = write("train: {steps: 7, batch_size: 2}\noptim: {learning_rate: 1e-5}\n")
    config = file.parse(path, ["--train.steps", "9", "--lora.rank=8"])
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
def test_held_out_images_go_with_those_that_they_were_held_out_of(write, caplog, flags, held_out):
    """U3: else a loss on other images is called that of the kind that was trained on."""
    config = file.parse(write("data: {path: own, held_out: kin}"), flags)
    assert config.data.held_out == held_out
    assert ("data.held_out kin of" in caplog.text) == (held_out is None)


@pytest.mark.parametrize(
    "text", ["", "# nothing", "train:\n", "train: {}", "lora: none", "sample: null\ndata: ~", "---"]
)
def test_what_is_empty_is_the_defaults(write, text):
    """F35."""
    assert file.parse(write(text), []) == Config()


def test_an_option_may_be_written_with_its_section(write):
    """F35."""
    config = file.load(write("train.steps: 5\ntrain: {batch_size: 2}\nlora.alpha: none"))
    assert (config.train.steps, config.train.batch_size, config.lora.alpha) == (5, 2, None)


@pytest.mark.parametrize(
    ("written", "name", "value"),
    [
        ("optim: {learning_rate: 1e-4}", "optim.learning_rate", 1e-4),
        ("train: {steps: 1e3}", "train.steps", 1000),
        ("train: {steps: 010}", "train.steps", 10),
        ("train: {steps: 1_000}", "train.steps", 1000),
        ("seed: 0x10", "seed", 16),
        ("data: {random_flip: yes}", "data.random_flip", True),
        ("data: {encode_once: off}", "data.encode_once", False),
        ("profile: 10:12", "profile", "10:12"),
        ("model: {revision: 1e5}", "model.revision", "1e5"),
        ("model: {variant: 16}", "model.variant", "16"),
        ("data: {tag_separator: =, shuffle_tags: on}", "data.tag_separator", "="),
        ("data: {path: none}", "data.path", "none"),
        ("data: {held_out: None}", "data.held_out", None),
        ("sample: {prompts: none}", "sample.prompts", ()),
        ("sample: {prompts: [yes, 2024, none]}", "sample.prompts", ("yes", "2024", "none")),
        ("optim: {rates: }", "optim.rates", {}),
        ("optim: {rates: {unet.up: 5e-1}}", "optim.rates", {"unet.up": 0.5}),
    ],
)
def test_a_value_is_what_it_would_be_as_a_flag(write, written, name, value):
    """F10: YAML 1.1 reads several of these as something else."""
    config = file.load(write(written))
    found = functools.reduce(getattr, name.split("."), config)
    assert found == value and type(found) is type(value)
    again = write(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))
    assert file.load(again) == config


@pytest.mark.parametrize("word", ["none", "None", "null"])
def test_none_is_none_for_options_of_many_values(write, word):
    """U1."""
    path = write("sample: {prompts: [x]}\noptim: {rates: {x: 1}}")
    config = file.parse(path, ["--sample.prompts", word, "--optim.rates", word])
    assert config.sample.prompts == () and config.optim.rates == {}


def test_every_path_may_begin_at_home(write, monkeypatch):
    """F11."""
    monkeypatch.setenv("HOME", "/home/anna")
    text = """
output: ~/runs/cat
model: {path: ~/m, vae: ~/v}
lora: {start: ~/l}
data: {path: ~/d, folders: {~/f: 2}, regularisation: ~/r, held_out: ~/h, held_out_base: ~/b}
"""
    written = yaml.safe_dump(to_dict(file.load(write(text))))
    assert "~" not in written and written.count("/home/anna/") == 9
    flags = ["--output", "~/a b#1", "--data.path=~/x", "--data.folders", "~/y=3"]
    config = file.parse(write(""), flags)
    assert config.output == pathlib.Path("/home/anna/a b#1") and config.data.path == "/home/anna/x"
    assert config.data.folders == {"/home/anna/y": 3}


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
    assert getattr(file.parse(path, flags).data, name) == value


def test_a_tuple_takes_several_words_and_a_prompt_may_have_spaces(write):
    config = file.parse(write(""), ["--sample.prompts", "a cat", "b", "--mesh.data", "-1"])
    assert config.sample.prompts == ("a cat", "b") and config.mesh.data == -1
    assert file.parse(write("sample: {prompts: [x]}"), ["--sample.prompts"]).sample.prompts == ()


def test_a_mapping_takes_pairs(write):
    flags = ["--optim.rates", r"unet\.up=0.5", "a=b=2", "--seed", "3"]
    config = file.parse(write("optim: {rates: {x: 1}}"), flags)
    assert config.optim.rates == {r"unet\.up": 0.5, "a=b": 2.0} and config.seed == 3


def test_a_flag_that_is_there_twice_loses_nothing_in_silence(write, caplog):
    """F10's sibling: on the command line, and for folders in two spellings."""
    flags = ["--sample.prompts", "a", "--train.steps", "5", "--train.steps", "6"]
    flags += ["--data.folders", "x=2", "--data.folders", "y=3", "--sample.prompts", "b", "c"]
    config = file.parse(write(""), flags)
    assert config.sample.prompts == ("a", "b", "c") and config.data.folders == {"x": 2, "y": 3}
    assert config.train.steps == 6 and "--train.steps is given twice, as 5 and 6" in caplog.text
    for same in (["x=2", "x=3"], ["x=2", "--data.folders", "x=3"]):
        with pytest.raises(UserError, match="--data.folders has x twice: leave one"):
            file.parse(write(""), ["--data.folders", *same])
    home = pathlib.Path("~/x").expanduser()
    with pytest.raises(UserError, match=f"data.folders: has {home} twice"):
        file.parse(write(f"data: {{folders: {{~/x: 2, {home}: 3}}}}"), [])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--optim.rates", "unet"],
            "--optim.rates takes KEY=VALUE, any number of them, found unet",
        ),
        (["--lora.rnak", "4"], r"--lora.rnak: there is no such option; did you mean lora.rank\?"),
        (["--rnk", "4"], r"--rnk: there is no such option; did you mean lora.rank\?"),
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
            "train.mode: should be lora, .*vae or ddpm, found 'lota'; did you mean lora[?]",
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
        file.parse(write(""), flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora: {rnak: 4}", r"lora.rnak: there is no such option; did you mean lora.rank\?"),
        ("train: 5", "train is a section: write train: {option: value}, not '5'"),
        ("- a", "must hold options by name, found a list"),
        ("a: [", "it is not YAML: line 1, column 5: "),
        ("train:\n  steps: 5\ntrain:\n  mode: full", "train occurs twice, in lines 1 and 3"),
        (
            "train: {steps: 5}\ntrain.steps: 6",
            "train.steps occurs twice, in lines 1 and 2: leave one",
        ),
        ("trian.steps: 5", r"trian.steps: there is no such option; did you mean train.steps\?"),
        ("seed:\n", "seed: .*, found None"),
        ("sample: {prompts: a cat}", r"prompts: should be a list: \[one, another\] in a file"),
        ("sample: {prompts: [a: b]}", "prompts.0: should be text: put it in quotes"),
        ("data: {folders: [a]}", "folders: should be pairs: {KEY: VALUE} in a file"),
        ("output: ~", r"output: should be a path \(~ alone is nothing in YAML"),
        ("Train: {steps: 5}", r"Train: there is no such option; did you mean train\?"),
        ("Train.Steps: 5", r"Train.Steps: there is no such option; did you mean train.steps\?"),
        ("output: ''", "output: is empty: name a file or a folder"),
        ("seed: -2\nlora: {rank: 0}", "(?s)lora.rank: .*\n  seed: "),
    ],
)
def test_wrong_files_are_named(write, text, message):
    """F35 and its siblings."""
    with pytest.raises(UserError, match=message):
        file.parse(write(text), ["--train.steps", "4"])


def test_a_missing_or_binary_file(tmp_path):
    with pytest.raises(UserError, match="nothing.yaml cannot be read: No such file"):
        file.load(tmp_path / "nothing.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xfa\xfe")
    with pytest.raises(UserError, match="config .*b.yaml is not UTF-8 .byte 0xfa in line 1"):
        file.load(tmp_path / "b.yaml")


def test_one_problem_is_one_line(write):
    with pytest.raises(UserError) as caught:
        file.load(write("lora: {rnak: 4}"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_of_the_project_is_valid(path):
    file.load(path)


def test_configs_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    own = tmp_path / "quickstart.yaml"
    own.write_text("")
    assert file.config_path(str(own)) == own
    monkeypatch.chdir(tmp_path)
    own.unlink()
    for name in ("quickstart.yaml", "configs/quickstart.yaml", "quickstart"):
        assert file.config_path(name).is_file()
    assert not file.config_path("other.yaml").exists()


def test_a_config_may_lie_in_a_home(monkeypatch, tmp_path):
    """F11."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("")
    assert file.config_path("~/c.yaml") == tmp_path / "c.yaml"
    with pytest.raises(UserError, match="the config's name is empty"):
        file.config_path("")


def test_former_names_are_read_and_their_new_ones_said_once(tmp_path, caplog):
    path = tmp_path / "a.yaml"
    path.write_text("data: {max_pictures: 3}\n")
    former_names.SAID.clear()
    first = file.parse(path, ["--data.class_pictures", "7", "--data.regularisation", str(tmp_path),
                              "--data.class_prompt", "a cat"])  # fmt: skip
    assert (first.data.max_images, first.data.class_images) == (3, 7)
    assert file.load(path).data.max_images == 3
    assert caplog.messages == [
        "data.class_pictures is called data.class_images now",
        "data.max_pictures is called data.max_images now",
    ]
    path.write_text("data: {max_pictures: 3}\ndata.max_images: 4\n")
    with pytest.raises(UserError, match="data.max_images"):
        file.load(path)
