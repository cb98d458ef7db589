"""environment.json: what else than its config a run depends on, so that it can be repeated.

It is a list: a run that resumes with other versions, devices or images adds an entry.
"""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Sequence

import jax

import flax_sd
from flax_sd.config import Config
from flax_sd.data import Images, Shard, fingerprint
from flax_sd.files.json_values import JsonObject
from flax_sd.lora.formats.read import lora_hash
from flax_sd.system.precision import resolve_dtype
from flax_sd.system.program import matmul_precision
from flax_sd.training.inputs.datasets import Sets
from flax_sd.weights.model import Model

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")


def facts(config: Config, sets: Sets, model: Model) -> JsonObject:
    """Returns versions, devices and hashes of model and data; paths are as the config has them."""
    devices = jax.devices()
    named = {"train": sets.train, **sets.evaluated}
    found = {name: _of_set(images) for name, images in named.items()}
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
        "model_hash": _model_hash(config, model),
        **({"start_hash": lora_hash(start)} if start is not None else {}),
        "data": found,
    }


def source_hash() -> str:
    """Returns 10 digits of the SHA-256 of the package's code: a checkout has no version number."""
    folder, digest = pathlib.Path(flax_sd.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:10]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout
        return None


def _model_hash(config: Config, model: Model) -> str | None:
    """Returns the hash of the loaded networks, as in sample.py's settings; None if all are new."""
    read = [name for name in model.networks if name not in config.model.from_scratch]
    return model.files.fingerprint(read)


def _of_shards(path: str, shards: Sequence[Shard]) -> JsonObject:
    return {"path": path, "shards": len(shards), "hash": fingerprint(shards)}


def _of_set(images: Images) -> JsonObject:
    captions = sum(len(images.captions(i)) for i in range(len(images)))
    return {
        "path": images.cfg.path,
        "pictures": len(images),
        "captions": captions,
        "left_out": len(images.bad),
        "hash": images.fingerprint(),
    }
