"""The options: their checks, and that each one is read somewhere."""

import pathlib
import re

import pydantic
import pytest

import flax_sd
from flax_sd.config import Config, to_dict
from flax_sd.config.section import option_fields

SOURCE = pathlib.Path(flax_sd.__file__).parent


def test_every_option_is_read_somewhere():
    declared = {SOURCE / "config_file.py", *(SOURCE / "config").iterdir()}
    files = [path for path in SOURCE.rglob("*.py") if path not in declared]
    code = "\n".join(path.read_text() for path in files)
    idle = [
        name
        for name in option_fields(Config)
        if not re.search(rf"\.{(own := name.rpartition('.')[2])}\b|\"{own}\"", code)
    ]
    assert not idle


def test_every_option_is_documented_and_described_once():
    for name, field in option_fields(Config).items():
        assert field.description, name
    assert len(option_fields(Config)) == len(set(option_fields(Config)))


def test_a_config_is_its_dict():
    config = Config.model_validate({"sample": {"prompts": ["a"]}, "output": "runs/x"})
    assert Config.model_validate(to_dict(config)) == config
    assert to_dict(config)["sample"]["prompts"] == ["a"] and to_dict(config)["output"] == "runs/x"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"resolution": 4}}, "near it: 8"),
        ({"train": {"batch_size": 4, "accumulate": 3}}, "is not divisible by train.accumulate 3"),
        ({"train": {"mode": "vae", "text_encoder": True}}, "train.text_encoder has no meaning"),
        (
            {"train": {"mode": "ddpm"}, "data": {"template": "x {}"}, "lora": {"rank": 2}},
            "data.template has no meaning in train.mode ddpm; lora.rank has no meaning",
        ),
        ({"sample": {"at_first": False}}, "at_first without effect beside the other"),
        (
            {"data": {"max_token_length": 150}, "train": {"mode": "vae"}},
            "data.max_token_length has no meaning in train.mode vae",
        ),
        ({"data": {"max_token_length": 100}}, "should be 75, 150 or 225"),
        ({"sample": {"count": 4}}, "sample.count has no meaning in train.mode lora"),
        ({"train": {"mode": "vae"}, "sample": {"prompts": ["a"]}}, "sample.prompts has no meaning"),
        (
            {"train": {"mode": "vae"}, "loss": {"error": "l1"}, "noise": {"offset": 0.1}},
            "loss.error has no meaning in train.mode vae; noise.offset has no meaning",
        ),
        ({"data": {"mask": "file"}, "train": {"mode": "vae"}}, "data.mask has no meaning in train"),
        (
            {"data": {"unmasked_weight": 0.1, "mask_normalised": True}},
            "unmasked_weight, mask_normalised without effect",
        ),
        ({"loss": {"huber_c": 0.5, "gamma": 2}}, "huber_c, gamma without effect beside the other"),
        ({"loss": {"weight": "debiased", "gamma": 2}}, "gamma without effect"),
        ({"timesteps": {"logit_mean": 1, "bias_end": 7}}, "logit_mean, bias_end without effect"),
        ({"timesteps": {"sampling": "range", "bias_portion": 0.5}}, "bias_portion without effect"),
        ({"noise": {"multires_discount": 0.5}}, "multires_discount without effect"),
        (
            {"lora": {"dropout": 0.1, "max_norm": 1}, "train": {"mode": "full"}},
            "lora.dropout has no meaning in train.mode full; lora.max_norm has no meaning",
        ),
        (
            {"model": {"base_dtype": "int8"}, "train": {"mode": "full"}},
            "model.base_dtype has no meaning in train.mode full",
        ),
        ({"lora": {"max_norm": 1}, "optim": {"method": "schedule_free"}}, "whose mean it misses"),
        ({"model": {"from_scratch": ["unet"]}}, "has unet, which train.mode lora does not train"),
        (
            {"model": {"from_scratch": ["text_encoder"]}, "train": {"mode": "full"}},
            "has text_encoder, which train.mode full does not train .train.text_encoder does",
        ),
        ({"model": {"from_scratch": ["vae"]}, "train": {"mode": "full"}}, "has vae, which"),
        ({"optim": {"learning_rate": float("nan")}}, "finite number"),
        ({"optim": {"method": "prodigy"}}, "prodigy finds the rate itself.* 1.0 is usual"),
        (
            {"optim": {"method": "schedule_free", "schedule": "cosine"}},
            "schedule_free needs constant or constant_with_warmup",
        ),
        (
            {"optim": {"method": "schedule_free"}, "train": {"ema_decay": 0.9}},
            "train.ema_decay with optim.method schedule_free",
        ),
        ({"optim": {"method": "sgd", "beta2": 0.5, "epsilon": 1}}, "beta2, epsilon without"),
        (
            {"optim": {"method": "schedule_free", "beta1": 0}},
            "beta1 0: schedule_free divides by it",
        ),
        ({"optim": {"beta2": 0.9999999}}, "less than or equal to 0.999999"),
        ({"optim": {"epsilon": 1e-30}}, "epsilon\n  Input should be greater than or equal to 0.0"),
        ({"optim": {"cycles": float("inf"), "schedule": "cosine"}}, "finite number"),
        ({"optim": {"decay_steps": 5}}, "decay_steps without effect"),
        ({"optim": {"warmup_steps": 5}}, "warmup_steps without effect"),
        ({"optim": {"cycles": 2, "schedule": "linear"}}, "cycles without effect"),
        ({"optim": {"power": 2}}, "power without effect"),
        ({"optim": {"rates": {"(": 1}}}, "'.' is not a regular expression"),
        ({"optim": {"lora_plus": 4}, "train": {"mode": "full"}}, "lora_plus has no meaning"),
        ({"train": {"mode": "textual_inversion"}}, "trains tokens.names: there are none"),
        (
            {
                "train": {"mode": "textual_inversion", "text_encoder": True},
                "tokens": {"names": {"<a>": "cat"}},
                "lora": {"rank": 8, "dropout": 0.5},  # the rank may stay from another config
            },
            "error, train.text_encoder has no meaning in train.mode textual_inversion; lora.drop",
        ),
        (
            {"train": {"mode": "full"}, "tokens": {"names": {"<a>": "cat"}}},
            "tokens.names has no meaning in train.mode full",
        ),
        ({"tokens": {"vectors": 2}}, "vectors without effect"),
        ({"tokens": {"names": {"<a>": " "}}}, "<a> begins as nothing: name a word near it"),
        ({"tokens": {"names": {"<a>": "cat", "<b>": "a <a>"}}}, "<b> begins as <a>, a new one"),
        ({"tokens": {"names": {"<a>": "cat", "[a]": "dog"}}}, "each needs letters of its own"),
        (
            {"data": {"stream": True, "repeats": 2, "mask": "alpha", "encode_once": False}},
            "repeats, mask, encode_once beside stream, which has one shard at hand",
        ),
        (
            {"data": {"stream": True}, "train": {"epochs": 2}},
            "train.epochs cannot be used with data.stream",
        ),
        (
            {
                "data": {"stream": True},
                "checkpoint": {"every_epochs": 1},
                "sample": {"every_epochs": 1},
            },
            "checkpoint.every_epochs cannot be used with data.stream, whose size is unknown: "
            "set checkpoint.every; "
            "sample.every_epochs cannot be used with data.stream, whose size is unknown: "
            "set sample.every",
        ),
        (
            {"data": {"stream": True}, "tokens": {"names": {"<a>": "cat"}}},
            "tokens.names with data.stream",
        ),
        ({"mesh": {"fsdp": 2}, "train": {"mode": "full"}}, "fsdp 2 divides frozen weights alone"),
        ({"mesh": {"fsdp": 2}, "train": {"mode": "vae"}}, "take mesh.fsdp 1"),  # C2
        ({"seed": -2}, "greater than or equal to -1"),
        ({"nonsense": 1}, "Extra inputs"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        Config.model_validate(values)


def test_what_a_mode_trains_may_start_from_scratch():
    for mode, parts, text in [("vae", ["vae"], False), ("full", ["unet", "text_encoder"], True)]:
        train = {"mode": mode, "text_encoder": text}
        Config.model_validate({"model": {"from_scratch": parts}, "train": train})


@pytest.mark.parametrize(
    "options, name, value",
    [
        ({}, "lora.alpha", 4),
        ({"lora": {"alpha": 2}}, "lora.alpha", 2),
        ({"lora": {"ranks": {"mid": 2}}}, "lora.alpha", None),
        ({"optim": {"method": "lion"}}, "optim.beta2", 0.99),
        ({"optim": {"method": "adafactor"}}, "optim.beta1", 0.0),
        ({"optim": {"learning_rate": 0.5}}, "optim.text_encoder_learning_rate", 0.5),
        ({"optim": {"schedule": "cosine"}}, "optim.cycles", 0.5),
        ({"optim": {"schedule": "cosine_with_restarts"}}, "optim.cycles", 1.0),
        ({}, "optim.cycles", None),
        ({"loss": {"weight": "soft_min_snr"}}, "loss.gamma", 4.0),
        ({"data": {"buckets": "kohya"}}, "data.bucket_min", 256),
        ({"data": {"buckets": "kohya", "resolution": 320}}, "data.bucket_min", 160),
        ({"data": {"buckets": "kohya"}}, "data.bucket_max", 1024),
        ({}, "data.held_out", None),
    ],
)
def test_an_unset_option_stands_for_what_its_help_says(options, name, value):
    """F30: which is what a resumed run is held against."""
    config, (section, option) = Config.model_validate(options), name.split(".")
    assert getattr(config, section).meant(option) == value == config.in_full()[section][option]
