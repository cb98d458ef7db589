"""LoRAs of the small network, and files of them."""

import json

import numpy as np
from flax import nnx

from flax_sd.lora.adapter import Adapter
from flax_sd.lora.formats.read import read
from flax_sd.lora.targets import slots
from flax_sd.weights import safetensors
from tests.lora.networks import small

Q = "lora_unet_attn2_to_q"
SMALL = nnx.eval_shape(small)
_RNG = np.random.default_rng(0)


def tensors(*shape):
    return _RNG.normal(size=shape).astype(np.float32)


def pair(name, c_in=8, c_out=8, rank=2, down="lora_down", up="lora_up"):
    return {
        f"{name}.{down}.weight": tensors(rank, c_in),
        f"{name}.{up}.weight": tensors(c_out, rank),
    }


def saved(folder, content, metadata=None, name="lora.safetensors"):
    path = folder / name
    safetensors.write(path, content, metadata)
    return path


def read_small(path):
    return read(path, {"unet": SMALL})["unet"]


def lora_of(alphas, ranks=(2, 2, 2, 2, 2), seed=0):
    rng, out = np.random.default_rng(seed), {}
    for (path, slot), alpha, rank in zip(slots(SMALL).items(), alphas, ranks, strict=True):
        *window, c_in, c_out = slot.base.kernel.shape
        down = rng.normal(size=(rank, c_in, *window)).astype(np.float32)
        up = rng.normal(size=(c_out, rank, *(1 for _ in window))).astype(np.float32)
        out[path] = Adapter(down, up, alpha)
    return {"unet": out}


def header(path):
    raw = path.read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]


def assert_same_updates(ours, theirs):
    assert ours.keys() == theirs.keys()
    for path, adapter in ours.items():
        np.testing.assert_allclose(theirs[path].delta(), adapter.delta(), rtol=1e-5, atol=1e-5)
