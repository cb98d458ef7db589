import dataclasses

import pytest

from flax_sd.errors import UserError
from flax_sd.models.config_json import read_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    width: int
    eps: float = 1e-5
    heads: int | tuple[int, ...] = 8
    flag: bool | None = False
    act: str = "silu"
    blocks: tuple[str, ...] = ("Down",)

    def __post_init__(self):
        if self.width < 0:
            raise UserError("width is negative\nand so is its square root")


UNSUPPORTED = {"class_embed_type": None, "dropout": 0.0, "kernel": [3, 3]}
CHOICES = {"act": ("silu",), "blocks": ("Down", "CrossAttnDown")}


def read(**raw):
    return read_config(Config, raw, UNSUPPORTED, "unet/config.json", choices=CHOICES)


def test_lists_become_tuples_and_whole_numbers_floats():
    config = read(width=4, eps=1, heads=[1, 2], blocks=["Down", "CrossAttnDown"])
    assert config == Config(width=4, eps=1.0, heads=(1, 2), blocks=("Down", "CrossAttnDown"))
    assert isinstance(config.eps, float) and hash(config) is not None


def test_defaults_and_null():
    assert read(width=4, flag=None, heads=3) == Config(width=4, flag=None, heads=3)


def test_foreign_and_private_keys_are_ignored():
    assert read(width=4, _class_name="X", torch_dtype="float16", skip=1) == Config(width=4)


def test_unsupported_fields_pass_at_their_defaults():
    assert read(width=4, class_embed_type=None, dropout=0, kernel=[3, 3]) == Config(width=4)


def test_every_problem_is_named_at_once():
    with pytest.raises(UserError) as caught:
        read(eps="x", heads=[1, "2"], flag=1, dropout=0.1, act="gelu", blocks=["Up", "Down"])
    message = str(caught.value)
    assert message.startswith("unet/config.json does not describe a network that flax_sd can")
    for line in (
        "width is missing",
        'eps is "x": should be a valid number',
        'heads is [1, "2"]: should be a valid integer',
        "flag is 1: should be a valid boolean",
        "dropout is 0.1: only 0.0 is supported",
        'act has "gelu": supported is silu',
        'blocks has "Up": supported is CrossAttnDown or Down',
    ):
        assert f"\n  {line}" in message, message


def test_booleans_and_strings_are_no_numbers():
    for value in (True, "4", 4.5, None):
        with pytest.raises(UserError, match="width is .*: should be a valid integer"):
            read(width=value)


def test_what_the_config_itself_refuses_is_told_with_the_rest():
    with pytest.raises(UserError) as caught:
        read(width=-1, dropout=0.5)
    assert str(caught.value).splitlines()[1:] == [
        "  width is negative",
        "  and so is its square root",
        "  dropout is 0.5: only 0.0 is supported",
    ]
