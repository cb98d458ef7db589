"""Builds CLIP's tokenizer files, byte for byte those of the hub, from open_clip's vocabulary.

    pip download --no-deps open_clip_torch
    python scripts/build_tokenizer.py open_clip_torch-*.whl

The vocabulary is `bpe_simple_vocab_16e6.txt.gz` (MIT, as the LICENSE beside it says); the special
tokens are those of Stable Diffusion 1.x. Written to flax_sd/bundled/base/tokenizer.
"""

import gzip
import hashlib
import json
import pathlib
import sys
import zipfile

FOLDER = pathlib.Path(__file__).parents[1] / "flax_sd" / "bundled" / "base" / "tokenizer"
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MERGES = 49_152 - 256 - 2  # CLIP was trained with the first of the file's lines only
BLOBS = {  # git blob ids of openai/clip-vit-large-patch14's files
    "vocab.json": "469be27c5c010538f845f518c4f5e8574c78f7c8",
    "merges.txt": "76e821f1b6f0a9709293c3b6b51ed90980b3166b",
}


def byte_letters() -> list[str]:
    """A printable letter for each byte: itself where it is one, else one past 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def vocabulary(lines: list[str]) -> dict[str, str]:
    """The text of vocab.json and merges.txt."""
    merges = lines[1 : MERGES + 1]
    letters = byte_letters()
    tokens = letters + [f"{letter}</w>" for letter in letters]
    tokens += ["".join(merge.split()) for merge in merges] + [BOS, EOS]
    ids = {token: i for i, token in enumerate(tokens)}
    return {
        "vocab.json": json.dumps(ids, ensure_ascii=False, indent=2, sort_keys=True) + "\n",
        "merges.txt": "\n".join(["#version: 0.2", *merges]) + "\n",
    }


def settings() -> dict[str, str]:
    """The text of the two small JSON files."""
    special = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    named = {name: {"content": text} | special for name, text in [("bos", BOS), ("eos", EOS)]}
    tokens = {f"{name}_token": token for name, token in named.items()}
    tokens |= {"pad_token": EOS, "unk_token": {"content": EOS} | special}
    config = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "tokenizer_class": "CLIPTokenizer",
        **{k: v if isinstance(v, str) else {"__type": "AddedToken"} | v for k, v in tokens.items()},
    }
    return {
        "special_tokens_map.json": json.dumps(tokens, indent=2) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
    }


def main() -> None:
    """Writes the tokenizer's folder from the wheel that the command line names."""
    wheel = zipfile.ZipFile(sys.argv[1])
    packed = wheel.read("open_clip/bpe_simple_vocab_16e6.txt.gz")
    files = vocabulary(gzip.decompress(packed).decode().split("\n"))
    for name, text in files.items():
        data = text.encode()
        assert hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == BLOBS[name], name
    licence = next(name for name in wheel.namelist() if name.endswith("licenses/LICENSE"))
    files |= settings() | {"LICENSE": wheel.read(licence).decode()}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (FOLDER / name).write_bytes(text.encode())


if __name__ == "__main__":
    main()
