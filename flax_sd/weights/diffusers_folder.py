"""The diffusers folder: one sub-folder for each component, with its config.json and tensors.

Reads every layout in use: one file or shards with an index, plain or a variant (fp16), and the
names of older versions. Writes what `from_pretrained` of diffusers and transformers reads.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from flax_sd.errors import UserError
from flax_sd.files import file_kind
from flax_sd.files.atomic import explain_write_errors, flush_to_disk
from flax_sd.files.json_values import JsonObject, parse_object
from flax_sd.weights.deferred import Tensor
from flax_sd.weights.ldm.leftovers import FILE as LEFTOVERS
from flax_sd.weights.safetensors import TensorFile, write

_STEMS = ("diffusion_pytorch_model", "model")  # diffusers', transformers'
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".msgpack")
# diffusers < 0.17 named the projections of the VAE's attention so.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_KEY = re.compile(r"(.*\battentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")


def read_json(path: pathlib.Path) -> JsonObject:
    """Reads a JSON object.

    Raises:
      UserError: the file is missing or holds something else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} could not be read: {error.strerror}") from error
    try:
        return parse_object(data, str(path))
    except UserError as error:
        if found := file_kind.kind_of(data[: file_kind.BEGINNING]):
            raise UserError(f"{path} is {found}") from error
        raise


def weight_file(names: Collection[str], variant: str | None, where: str) -> str:
    """Returns which of a component's files to read: the tensors, or the index of their shards.

    A component without a file of the variant is read from its plain file, as in diffusers.

    Raises:
      UserError: there is none; the message names what is there instead.
    """
    dotted = f".{variant}" if variant else ""
    for ending in dict.fromkeys([dotted, ""]):
        for stem in _STEMS:
            for name in (
                f"{stem}{ending}.safetensors",
                f"{stem}.safetensors.index{ending}.json",
                f"{stem}{ending}.safetensors.index.json",
            ):
                if name in names:
                    return name
    others = sorted(name for name in names if name.endswith(".safetensors"))
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if others:
        raise UserError(
            f"{where} holds {', '.join(others)}, but no {_STEMS[0]}{dotted}.safetensors or "
            f"{_STEMS[1]}{dotted}.safetensors; name the variant (such as fp16) if it is one"
        )
    if pickles:
        raise UserError(
            f"{where} holds {', '.join(pickles)}, which can run code and is not read; convert it "
            "once where torch is installed: load the model with diffusers and call "
            "save_pretrained(folder, safe_serialization=True)"
        )
    raise UserError(f"{where} holds no weights: {_STEMS[0]}.safetensors or {_STEMS[1]}.safetensors")


def component_files(
    folder: pathlib.Path, component: str, variant: str | None = None
) -> list[pathlib.Path]:
    """Returns the safetensors files of a component.

    Raises:
      UserError: there are none, or shards that the index names are missing.
    """
    inside = folder / component
    if not inside.is_dir():
        raise UserError(f"{folder} has no folder {component}, which a diffusers model has")
    name = weight_file([path.name for path in inside.iterdir()], variant, str(inside))
    if not name.endswith(".json"):
        return [inside / name]
    shards = read_json(inside / name).get("weight_map")
    if not isinstance(shards, dict) or not all(_is_name(shard) for shard in shards.values()):
        raise UserError(f"{inside / name} has no weight_map from tensors to files beside it")
    names = sorted(set(shards.values()))
    missing = [shard for shard in names if not (inside / shard).is_file()]
    if missing:
        raise UserError(f"{inside} lacks shards that {name} names: {', '.join(missing)}")
    return [inside / shard for shard in names]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value == pathlib.PurePath(value).name


def component_tensors(
    folder: pathlib.Path, component: str, variant: str | None = None
) -> Mapping[str, np.ndarray]:
    """Returns a component's tensors under their current names, each mapped from its file on access.

    Raises:
      UserError: as `component_files`, or a file is damaged.
    """
    return current_names(*map(TensorFile, component_files(folder, component, variant)))


def current_names(*sources: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Returns tensors under the names that diffusers' classes and the hub's CLIP files use."""
    # transformers 5 saves CLIPTextModel without the prefix that every older file has.
    bare = any("embeddings.token_embedding.weight" in source for source in sources)
    return _Renamed(
        {_current_name(key, bare): (source, key) for source in sources for key in source}
    )


def _current_name(key: str, bare: bool) -> str:
    if old := _OLD_KEY.fullmatch(key):
        return f"{old[1]}.{_OLD_ATTENTION[old[2]]}.{old[3]}"
    return f"text_model.{key}" if bare and not key.startswith("text_projection.") else key


class _Renamed(Mapping[str, np.ndarray]):
    """Tensors that are read on access, so that a model is never in memory twice."""

    def __init__(self, places: Mapping[str, tuple[Mapping[str, np.ndarray], str]]):
        self._places = places

    def __getitem__(self, key: str) -> np.ndarray:
        source, name = self._places[key]
        return source[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@contextlib.contextmanager
def written_aside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a folder to write into, which is moved to `path` when the block ends without error.

    A model that is already there is replaced, and what else its folder holds is kept; a run that
    is killed leaves it as it was.

    Raises:
      UserError: something other than a model is there, or the disk is full.
    """
    path = pathlib.Path(os.path.abspath(path))  # "." has no name to write aside under
    if path.exists() and not _is_replaceable(path):
        raise UserError(f"{path} exists and is not a model folder; name a new or an empty folder")
    aside, old = (path.with_name(f".{path.name}.{end}") for end in ("part", "old"))
    try:
        with explain_write_errors(path):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            yield aside
            if replaces := path.exists():
                _keep(others_of(path), aside)
                shutil.rmtree(old, ignore_errors=True)
                path.rename(old)
            try:
                aside.rename(path)
            except BaseException:
                if replaces:
                    old.rename(path)
                raise
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _is_replaceable(path: pathlib.Path) -> bool:
    return path.is_dir() and ((path / "model_index.json").is_file() or not any(path.iterdir()))


def others_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns what is in a model's folder that is no part of the model, such as notes of the user.

    Of a folder without a readable index that is all but the index.
    """
    ours = {"model_index.json", LEFTOVERS}
    with contextlib.suppress(UserError):
        ours |= read_json(folder / "model_index.json").keys()
    return sorted(path for path in folder.iterdir() if path.name not in ours)


def _keep(others: Collection[pathlib.Path], folder: pathlib.Path) -> None:
    """Copies files and folders into another folder, but for those that it has."""
    for path in others:
        target = folder / path.name
        if path.is_dir() and not target.exists():
            shutil.copytree(path, target, symlinks=True)
        elif not target.exists():
            shutil.copy2(path, target, follow_symlinks=False)


def write_json(path: pathlib.Path, value: Mapping[str, object]) -> None:
    """Writes JSON as diffusers does, and makes its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, sort_keys=True) + "\n")
        flush_to_disk(file)


def save_component(
    folder: pathlib.Path,
    component: str,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, object],
) -> None:
    """Writes a component's config.json and tensors; use inside `written_aside`.

    Raises:
      UserError: the disk is full.
    """
    inside = folder / component
    write_json(inside / "config.json", config)
    stem = _STEMS[0] if "_class_name" in config else _STEMS[1]  # only diffusers' configs have it
    write(inside / f"{stem}.safetensors", tensors, {"format": "pt"})
