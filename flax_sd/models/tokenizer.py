"""CLIP's tokenizer: prompts to 77 token ids, the same ids as transformers' CLIPTokenizer.

Longer prompts are read in chunks of as many, by the rule of sd-scripts' `--max_token_length`.

The byte-pair encoding itself is the `tokenizers` library's; here is how the folders that people
have are read: vocab.json + merges.txt (the hub's), or tokenizer.json alone (what transformers 5
saves), with the special tokens in any of four places.
"""

import copy
import functools
import hashlib
import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tokenizers
from jaxtyping import Int32
from tokenizers import models, normalizers, pre_tokenizers

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject, parse_object

LENGTH = 77  # tokens, with the first and the last
TEXT = LENGTH - 2
MAX_TOKEN_LENGTHS = (TEXT, 2 * TEXT, 3 * TEXT)  # those of sd-scripts
_UNLIMITED = 1e12  # and above: transformers writes 1e30 where nothing was set
_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "LICENSE",
)
_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
_DEFAULTS = dict.fromkeys(_NAMED, "<|endoftext|>") | {"bos_token": "<|startoftext|>"}
_WORDS = (  # transformers 5.23, models/clip/tokenization_clip.py
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
# What reading an object of another form raises, and the library.
_MISFITS = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
logger = logging.getLogger("flax_sd")


class Tokenizer:
    """Prompts to ids: first token, up to 75 of text, last token, padding.

    Attributes:
      bos, eos, pad: ids of the first token, the last one and the padding.
      max_token_length: how many tokens of text are read, 75 unless `with_length` says so.
    """

    def __init__(self, files: dict[str, bytes], where: str):
        """Builds the tokenizer from the contents of its folder, which `save` writes again.

        Raises:
          UserError: files are missing or not what their names say.
        """
        self._files = files
        read = {name: _parse(files, name, where) for name in files if name.endswith(".json")}
        _refuse_other_padding(read.get("tokenizer_config.json", {}), where)
        vocab, merges = _vocabulary(read, files.get("merges.txt"), where)
        try:
            special, added = _special_tokens(read)
            self._core = _core(vocab, merges, special.get("unk_token"))
            self._core.add_tokens(added)
            self.bos, self.eos, self.pad = (
                self._core.token_to_id(special[f"{name}_token"]) for name in ("bos", "eos", "pad")
            )
            if None in (self.bos, self.eos, self.pad):
                raise ValueError("an empty text")
        except _MISFITS as error:
            raise UserError(
                f"{where}: its files do not say what the special tokens are, as text or as an "
                f"object with its content ({type(error).__name__}: {error})"
            ) from error
        self._ids = _ids_of_added(self._core)
        self.max_token_length = TEXT

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Tokenizer":
        """Reads a tokenizer's folder.

        Raises:
          UserError: as the constructor.
        """
        folder = pathlib.Path(folder)
        present = [folder / name for name in _FILES if (folder / name).is_file()]
        return _build(tuple((path.name, path.read_bytes()) for path in present), str(folder))

    def __call__(self, prompts: Sequence[str]) -> Int32[np.ndarray, "b *k 77"]:
        """Returns the ids; text past `max_token_length` is cut off and named in a log warning.

        Of a length of 150 or 225 they are [b, 2, 77] or [b, 3, 77]: each chunk of 75 tokens is
        framed and padded as a prompt of its own, an empty one too, so that all have as many.

        Raises:
          UserError: a prompt holds half a surrogate pair, which is no character.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        room = self.max_token_length
        ids = np.full((len(prompts), room // TEXT, LENGTH), self.pad, np.int32)
        for rows, prompt in zip(ids, prompts, strict=True):
            if not prompt.isascii() and prompt.encode(errors="replace").decode() != prompt:
                raise UserError(f"prompt {prompt!r} holds half a surrogate pair; write it as UTF-8")
            encoded = self._encode(prompt)
            if tail := _tail(prompt, encoded, room):
                logger.warning("cut off, past %d tokens of a prompt: %r", room, tail)
            for row, start in zip(rows, range(0, room, TEXT), strict=True):
                kept = [i for i, _ in encoded[start : start + TEXT]]
                row[: len(kept) + 2] = [self.bos, *kept, self.eos]
        return ids[:, 0] if room == TEXT else ids

    def encode(self, prompt: str) -> list[int]:
        """Returns all ids of a text; a token of several vectors has an id for each."""
        return [i for i, _ in self._encode(prompt)]

    def cut_off(self, prompt: str) -> str:
        """Returns the text past `max_token_length`, which is not read; empty if it fits."""
        return _tail(prompt, self._encode(prompt), self.max_token_length)

    def _encode(self, prompt: str) -> list[tuple[int, int]]:
        """Returns the ids, each with the place in the text where it begins."""
        encoding = self._core.encode(prompt, add_special_tokens=False)
        return [
            (own, start)
            for i, (start, _) in zip(encoding.ids, encoding.offsets, strict=True)
            for own in self._ids.get(i, [i])
        ]

    def knows(self, token: str) -> bool:
        """Returns whether the text, in any case, is one token of the vocabulary."""
        lower = token.lower()
        return any(self._core.token_to_id(text) is not None for text in (token, lower))

    def with_length(self, max_token_length: int) -> "Tokenizer":
        """Returns a tokenizer that reads so many tokens of text.

        Raises:
          UserError: it is none of MAX_TOKEN_LENGTHS.
        """
        if max_token_length not in MAX_TOKEN_LENGTHS:
            *most, last = map(str, MAX_TOKEN_LENGTHS)
            raise UserError(
                f"max_token_length is {max_token_length!r}: should be {', '.join(most)} or {last}"
            )
        new = copy.copy(self)
        new.max_token_length = max_token_length
        return new

    def with_tokens(self, tokens: Sequence[str], first: int) -> "Tokenizer":
        """Returns a tokenizer that finds further tokens in texts; `save` leaves them out.

        Where `<cat>` comes with `<cat>_1`, `<cat>_2` and so on, it stands for all of these, as in
        diffusers' `maybe_convert_prompt`.

        Args:
          first: id of the first of them; the others count up.
        """
        new = copy.copy(self)
        new._core = tokenizers.Tokenizer.from_str(self._core.to_str())
        own_first = new._core.get_vocab_size()
        new._core.add_tokens(list(tokens))
        new._ids = {
            i: [n if n < own_first else n - own_first + first for n in ids]
            for i, ids in _ids_of_added(new._core).items()
        }
        return new

    @property
    def digest(self) -> str:
        """SHA-256 of all that the ids of a text depend on."""
        special = self.bos, self.eos, self.pad, self.max_token_length, sorted(self._ids.items())
        return hashlib.sha256(f"{self._core.to_str()} {special}".encode()).hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the files that were read."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self._files.items():
            (folder / name).write_bytes(data)


def _core(
    vocab: dict[str, int], merges: list[tuple[str, str]], unknown: str | None
) -> tokenizers.Tokenizer:
    """Builds the byte-pair encoding, before any token is found in text by itself."""
    model = models.BPE(
        vocab=vocab,
        merges=merges,
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        unk_token=unknown if unknown in vocab else None,  # every byte has a token of its own
    )
    core = tokenizers.Tokenizer(model)
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    core.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(tokenizers.Regex(_WORDS), "removed", invert=True)
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return core


@functools.lru_cache(maxsize=4)
def _build(files: tuple[tuple[str, bytes], ...], where: str) -> Tokenizer:
    """Builds a tokenizer, once a process for each content: it never changes."""
    return Tokenizer(dict(files), where)


def _tail(prompt: str, encoded: list[tuple[int, int]], room: int) -> str:
    return prompt[encoded[room][1] :] if len(encoded) > room else ""


def _ids_of_added(core: tokenizers.Tokenizer) -> dict[int, list[int]]:
    """Returns the id of each token that is found in text before the words are."""
    added = {token.content: i for i, token in core.get_added_tokens_decoder().items()}
    ids = {}
    for text, i in added.items():
        ids[i] = [i]
        while (following := f"{text}_{len(ids[i])}") in added:
            ids[i].append(added[following])
    return ids


def _parse(files: dict[str, bytes], name: str, where: str) -> JsonObject:
    return parse_object(files[name], f"{where}/{name}")


def _refuse_other_padding(config: JsonObject, where: str) -> None:
    """Raises UserError where diffusers would fill up prompts in another way than to 77 tokens."""
    problems = []
    length = config.get("model_max_length")
    if isinstance(length, int | float) and length != LENGTH and length < _UNLIMITED:
        problems.append(f"model_max_length is {length}: only {LENGTH} is supported")
    for name in ("padding_side", "truncation_side"):
        if config.get(name) == "left":
            problems.append(f'{name} is "left": only "right" is supported')
    if problems:
        raise UserError(f"{where}/tokenizer_config.json: {'; '.join(problems)}")


def _vocabulary(
    read: JsonObject, merges: bytes | None, where: str
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Reads token to id, and the pairs in the order in which they are merged."""
    if "tokenizer.json" in read:  # goes before the other two, as in transformers
        model = read["tokenizer.json"].get("model")
        model = model if isinstance(model, dict) else {}
        vocab, pairs = model.get("vocab"), model.get("merges")
        pairs = pairs if isinstance(pairs, list) else []
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in pairs]
    elif "vocab.json" in read and merges is not None:
        lines = merges.decode("utf-8", "replace").split("\n")
        vocab = read["vocab.json"]
        pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    else:
        raise UserError(
            f"{where} holds no tokenizer: vocab.json and merges.txt are wanted, or tokenizer.json"
        )
    vocab = vocab if isinstance(vocab, dict) else {}
    whole = bool(vocab) and all(_is_pair(pair) for pair in pairs)
    if not (whole and all(part in vocab for a, b in pairs for part in (a, b, a + b))):
        raise UserError(f"{where}: the vocabulary and the merges of the tokenizer do not fit")
    return vocab, [(a, b) for a, b in pairs]


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)


def _special_tokens(read: JsonObject) -> tuple[dict[str, str], list[tokenizers.AddedToken]]:
    """Reads the text of each named token, and each token that is found before the words are.

    The order of precedence is transformers': `added_tokens_decoder` of tokenizer_config.json, or
    else special_tokens_map.json before tokenizer_config.json, with the flags of tokenizer.json.
    """
    config = read.get("tokenizer_config.json", {})
    by_id = {int(i): _token(value) for i, value in config.get("added_tokens_decoder", {}).items()}
    named = _DEFAULTS | {key: config[key] for key in _NAMED if config.get(key)}
    if not by_id:
        named |= {k: v for k, v in read.get("special_tokens_map.json", {}).items() if k in _NAMED}
        if named["unk_token"] is None:  # nothing needs it: every byte has a token
            del named["unk_token"]
        texts = [_text(value) for value in named.values()]
        for text, i in read.get("added_tokens.json", {}).items():
            special = text in texts
            by_id[i] = tokenizers.AddedToken(text, normalized=not special, special=special)
        for value in read.get("tokenizer.json", {}).get("added_tokens", []):
            by_id[value["id"]] = _token(value)
    added = [token for _, token in sorted(by_id.items())]
    known = {token.content for token in added}
    for value in named.values():  # a text named twice, with other flags, counts as named last
        if _text(value) not in known:
            token = _token(value)
            token.special = True
            added.append(token)
    return {key: _text(value) for key, value in named.items()}, added


def _text(value: str | JsonObject) -> str:
    return value if isinstance(value, str) else value["content"]


def _token(value: str | JsonObject) -> tokenizers.AddedToken:
    """Returns a token with its flags; a bare string is matched in the text as it was typed."""
    if isinstance(value, str):
        return tokenizers.AddedToken(value, special=True)
    flags = {name: value[name] for name in _FLAGS if name in value}
    return tokenizers.AddedToken(value["content"], **flags)
