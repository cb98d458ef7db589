"""Every field of a tokenizer's configs, in every spelling, against transformers' own load (F26)."""

import json

import pytest
import transformers

from flax_sd.errors import UserError
from flax_sd.models.tokenizer import Tokenizer

PROMPT = "ab a! <|endoftext|> b"
WORDS = ["a", "b", "a</w>", "b</w>", "ab</w>", "!", "!</w>", "<|startoftext|>", "<|endoftext|>"]
ABSENT = object()
FLAGS = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
START, END = ({"content": f"<|{name}oftext|>", **FLAGS} for name in ("start", "end"))
MAP = {"bos_token": START, "eos_token": END, "pad_token": "!", "unk_token": END}
CONFIG = {  # of Stable Diffusion 2.1
    "add_prefix_space": False,
    "bos_token": {"__type": "AddedToken", **START},
    "do_lower_case": True,
    "eos_token": {"__type": "AddedToken", **END},
    "errors": "replace",
    "model_max_length": 77,
    "pad_token": "<|endoftext|>",
    "padding_side": "right",
    "tokenizer_class": "CLIPTokenizer",
    "truncation_side": "right",
    "unk_token": {"__type": "AddedToken", **END},
}
FILES = {"tokenizer_config.json": CONFIG, "special_tokens_map.json": MAP}
SPELLINGS = {"model_max_length": [50, 100, 77.0], "padding_side": ["left"], "pad_token": ["!"]}


def folder(path, files):
    (path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (path / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    for name, content in files.items():
        (path / name).write_text(json.dumps(content))
    return path


def theirs(path):
    """As diffusers' pipelines call it; raises whatever it raises."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(path)
    length = tokenizer.model_max_length
    return tokenizer([PROMPT], padding="max_length", max_length=length, truncation=True).input_ids


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize(
    ("file", "field"), [(file, field) for file, fields in FILES.items() for field in fields]
)
def test_a_field_means_what_it_means_to_transformers(tmp_path, file, field, mapped):
    usual = FILES if mapped else {"tokenizer_config.json": CONFIG}
    own = FILES[file]
    for i, value in enumerate([ABSENT, None, own[field], [own[field]], *SPELLINGS.get(field, [])]):
        changed = {k: v for k, v in own.items() if k != field}
        changed |= {} if value is ABSENT else {field: value}
        (path := tmp_path / str(i)).mkdir()
        folder(path, usual | {file: changed})
        try:
            reference = theirs(path)
        except Exception:  # of any kind: it does not load, or does not fill up
            reference = None
        try:
            ids = Tokenizer.load(path)([PROMPT]).tolist()
        except UserError as error:
            assert reference is None or field in str(error), (value, error)
            continue
        assert reference is None or ids == reference, value
