"""environment.json: what a run was made with, beside its config, so that it can be made again.

It is a list: a run that resumes on other versions, devices or pictures adds what there is then.
"""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import jax

import flax_sd
from flax_sd.compiler import matmul_precision
from flax_sd.config import Config
from flax_sd.data import Pictures, Shard, fingerprint
from flax_sd.lora.read import locate
from flax_sd.runs import sources
from flax_sd.runs.datasets import Sets
from flax_sd.runs.outputs import write_aside
from flax_sd.runs.parts import Parts
from flax_sd.runs.precision import resolve_dtype
from flax_sd.weights.folder import component_files

FILE = "environment.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")


def facts(config: Config, sets: Sets, parts: Parts) -> dict[str, Any]:
    """What this process would train with; of paths only what the config says."""
    devices = jax.devices()
    named = {"train": sets.train, **sets.measured}
    found = {name: _of_set(pictures) for name, pictures in named.items()}
    start = config.lora.start
    if sets.shards:
        found["train"] = _of_shards(config.data.path, sets.shards)
    return {
        "flax_sd": _version("flax_sd"),
        "flax_sd_source": source_hash(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "compute_dtype": resolve_dtype(config.compute_dtype),
        "matmul_precision": jax.config.values["jax_default_matmul_precision"]
        or matmul_precision({resolve_dtype(config.compute_dtype)}),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "model_hash": _model_hash(config, parts),
        **({"start_hash": sources.lora_hash(locate(start))} if start is not None else {}),
        "data": found,
    }


def record(folder: pathlib.Path, step: int, found: dict[str, Any]) -> None:
    """Notes what a run goes on with from `step`, and forgets what it did after that before.

    Raises:
      UserError: it cannot be written.
    """
    before = read(folder)
    kept = [entry for entry in before if entry["step"] < step]
    known = kept[-1] if kept else {}
    if {**known, "step": 0} != {**found, "step": 0}:
        kept.append({"step": step, **found})
    if jax.process_index() == 0 and kept != before:
        write_aside(folder / FILE, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """What was noted of a run; nothing where there is no such file, or it is damaged."""
    try:
        entries = json.loads((folder / FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    listed = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    return entries if listed and all(isinstance(e.get("step"), int) for e in entries) else []


def source_hash() -> str:
    """SHA-256 of the package's own code, 10 digits: a checkout has no version of its own."""
    folder, digest = pathlib.Path(flax_sd.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:10]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # it runs from a checkout
        return None


def _model_hash(config: Config, parts: Parts) -> str | None:
    """As sample.py's settings have it, of the networks that are loaded; None if none is."""
    files = [
        file
        for name in parts.networks
        if name not in config.model.from_scratch
        for folder in [parts.component_folder(name)]
        for file in component_files(folder.parent, folder.name, config.model.variant)
    ]
    return sources.fingerprint(files) if files else None


def _of_shards(path: str, shards: Sequence[Shard]) -> dict[str, Any]:
    return {"path": path, "shards": len(shards), "hash": fingerprint(shards)}


def _of_set(pictures: Pictures) -> dict[str, Any]:
    captions = sum(len(pictures.captions(i)) for i in range(len(pictures)))
    return {
        "path": pictures.cfg.path,
        "pictures": len(pictures),
        "captions": captions,
        "left_out": len(pictures.bad),
        "hash": pictures.fingerprint(),
    }
