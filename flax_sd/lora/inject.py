"""Adds LoRAs to the layers of a network, in place, and removes them."""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.lora.adapter import Adapter, alpha_of
from flax_sd.lora.layers import (
    Layer,
    Leaf,
    LoRA,
    LoRAScale,
    LoRAWeights,
    down_shape,
    output_norms,
)
from flax_sd.lora.targets import Slot, injected, match, slots
from flax_sd.models.int8 import in_int8

Init = Literal["gaussian", "kaiming"]


def inject(
    model: nnx.Module,
    targets: str,
    rank: int | Callable[[str], int],
    alpha: float | int | None,
    init: Init,
    key: jax.Array,
    name: str = "default",
    *,
    rank_stabilised: bool = False,
    dora: bool = False,
) -> list[str]:
    """Adds a new LoRA, to be trained, to the layers that `targets` picks; returns the paths.

    `up` starts at zero, so that nothing changes; `down` as in peft 0.21.2: "gaussian" is
    N(0, 1/rank²), "kaiming" U(±1/√fan_in). A layer's draw depends on the key and its own path
    alone. An abstract model (from `nnx.eval_shape`) gets abstract leaves.

    Args:
      rank: of every layer, or of the one at a path; one of rank 0 is left alone.
      alpha: an update is scaled by alpha / rank; None scales by 1.
      rank_stabilised: scales by alpha / √rank (Kalajdzievski 2023, eq. 8).
      dora: trains the norms of each layer's outputs too, which start as they are.

    Raises:
      UserError: `targets` picks nothing, or rank, alpha, init or name cannot be.
    """
    positive = alpha is None or (math.isfinite(alpha) and alpha > 0)
    if (isinstance(rank, int) and rank < 1) or not positive:
        raise UserError(f"lora rank {rank} and alpha {alpha}: both must be positive")
    if init not in ("gaussian", "kaiming"):
        raise UserError(f"lora init {init!r} is not one of gaussian, kaiming")
    ranks = {path: rank if isinstance(rank, int) else rank(path) for path in match(model, targets)}
    paths, table = [path for path, own in ranks.items() if own], slots(model)
    if not paths:
        raise UserError(f"lora targets {targets!r}: every layer that it picks has rank 0")
    _check_free(name, {path: table[path] for path in paths})
    for path in paths:
        own = ranks[path]
        scale = (own if alpha is None else alpha) / (math.sqrt(own) if rank_stabilised else own)
        # crc32 rather than hash(): the same in every process.
        path_key = jax.random.fold_in(key, np.uint32(zlib.crc32(path.encode())))
        weights = _fresh(table[path].base, own, scale, init, path_key)
        if dora:
            weights.magnitude = nnx.LoRAParam(_norms(table[path].base))
        _add(table[path], name, weights)
    return paths


def _norms(base: Layer) -> Leaf:
    kernel = base.kernel.get_value()
    if isinstance(kernel, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(kernel.shape[-1:], jnp.float32)
    return output_norms(kernel.astype(jnp.float32))


def _fresh(base: Layer, rank: int, scale: float, init: Init, key: jax.Array) -> LoRAWeights:
    shape = down_shape(base, rank)
    up_shape = (*(1,) * (len(shape) - 2), rank, base.out_features)
    if isinstance(base.kernel.get_value(), jax.ShapeDtypeStruct):
        return LoRAWeights(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, up_shape, ())))
    if init == "gaussian":
        down = jax.random.normal(key, shape, jnp.float32) / rank
    else:  # torch's kaiming_uniform_ with a = √5, the start of its own Linear and Conv2d
        bound = 1 / math.sqrt(math.prod(shape[:-1]))
        down = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
    return LoRAWeights(down, jnp.zeros(up_shape, jnp.float32), jnp.float32(scale))


def attach(
    model: nnx.Module, adapters: Mapping[str, Adapter], strength: float | int, name: str = "default"
) -> None:
    """Adds adapters (of a file) to their layers, each with its own rank and alpha.

    Raises:
      UserError: a path is not a layer of the model, a shape does not fit or the name is taken;
        every such adapter is named and the model left as it was.
    """
    table = slots(model)
    problems = [f"no such layer: {path}" for path in adapters.keys() - table.keys()]
    for path in adapters.keys() & table.keys():
        problems += [f"{path}: {what}" for what in misfits(table[path].base, adapters[path])]
    if problems:
        head = f"LoRA {name!r} does not fit {type(model).__name__}:"
        raise UserError("\n  ".join([head, *sorted(problems)]))
    _check_free(name, {path: table[path] for path in adapters})
    for path, adapter in adapters.items():
        down, up = (_from_torch(array) for array in (adapter.down, adapter.up))
        scale = jnp.float32(strength * adapter.scale)
        own = adapter.magnitude
        magnitude = None if own is None else jnp.asarray(own, jnp.float32)
        _add(table[path], name, LoRAWeights(down, up, scale, magnitude))


def set_strength(
    model: nnx.Module, scales: Mapping[str, float], strength: float, name: str
) -> None:
    """Sets the strength of an attached LoRA, given the alpha / rank of its adapters by path.

    Only values change, where they are: a program that takes them as arguments is not compiled anew.
    """
    table = slots(model)
    for path, scale in scales.items():
        layer = table[path].layer
        assert isinstance(layer, LoRA)
        variable = layer.adapters[name].scale
        old, new = variable.get_value(), jnp.float32(strength * scale)
        placed = isinstance(old, jax.Array) and old.committed
        variable.set_value(jax.device_put(new, old.sharding) if placed else new)


def misfits(base: Layer, adapter: Adapter) -> list[str]:
    """Returns why an adapter does not fit a layer; shapes are in torch's layouts."""
    *window, c_in, rank = down_shape(base, adapter.rank)
    want_down = (rank, c_in, *window)
    want_up = (base.out_features, rank, *(1 for _ in window))
    pairs: list[tuple[str, np.ndarray, tuple[int, ...]]]
    pairs = [("down", adapter.down, want_down), ("up", adapter.up, want_up)]
    if adapter.magnitude is not None:
        pairs.append(("magnitude", adapter.magnitude, (base.out_features,)))
    return [
        f"{which} is {list(array.shape)}, the model's layer needs {list(want)}"
        for which, array, want in pairs
        if array.shape != want
    ]


def _from_torch(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T, jnp.float32)


def to_torch(array: np.ndarray) -> np.ndarray:
    """Transposes a matrix to the layout of the files."""
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)


def _check_free(name: str, targets: Mapping[str, Slot]) -> None:
    """Raises if an adapter's name is an attribute of an nnx.Dict, or is taken."""
    if not name or name.startswith("_") or hasattr(nnx.Dict, name):
        raise UserError(f"a LoRA cannot be called {name!r}: take letters, digits and dashes")
    taken = [
        p for p, s in targets.items() if isinstance(s.layer, LoRA) and name in s.layer.adapters
    ]
    if taken:
        raise UserError(f"a LoRA called {name!r} exists already ({taken[0]}): choose another name")


def _add(slot: Slot, name: str, weights: LoRAWeights) -> None:
    layer = slot.layer
    if not isinstance(layer, LoRA):
        layer = LoRA(layer)
        setattr(slot.parent, slot.name, layer)
    layer.adapters[name] = weights


def detach(model: nnx.Module, name: str = "default") -> None:
    """Removes a LoRA; a layer left without any is the same object as before.

    Raises:
      UserError: the model has no LoRA of that name.
    """
    layers = injected(model)
    names = sorted({name for _, _, lora in layers for name in lora.adapters})
    if name not in names:
        raise UserError(
            f"no LoRA called {name!r} is attached; there is {', '.join(names) or 'none'}"
        )
    for _, slot, lora in layers:
        lora.adapters.pop(name, None)
        if not lora.adapters:
            setattr(slot.parent, slot.name, lora.base)


def extract(model: nnx.Module | nnx.State, name: str = "default") -> dict[str, Adapter]:
    """Returns the adapters called `name`, as numpy arrays in torch's layout; alpha includes the
    strength.

    Raises:
      UserError: there are none.
    """
    state = nnx.state(model) if isinstance(model, nnx.Module) else model
    leaves: dict[str, dict[str, np.ndarray]] = {}
    for path, var in nnx.to_flat_state(state):
        if isinstance(var, (nnx.LoRAParam, LoRAScale)) and path[-3:-1] == ("adapters", name):
            layer = ".".join(map(str, path[:-3]))
            leaves.setdefault(layer, {})[str(path[-1])] = np.asarray(var.get_value())
    if not leaves:
        raise UserError(f"no LoRA called {name!r} is in the model")
    return {
        layer: Adapter(
            down=to_torch(leaf["down"]),
            up=to_torch(leaf["up"]),
            alpha=alpha_of(np.float32(leaf["scale"]), leaf["down"].shape[-1]),
            magnitude=leaf.get("magnitude"),
        )
        for layer, leaf in leaves.items()
    }


def hold_in_int8(model: nnx.Module) -> None:
    """Stores the kernel of every linear and convolution in 8 bits, with a LoRA around it or not."""
    for slot in slots(model).values():
        if isinstance(slot.layer, LoRA):
            slot.layer.base = in_int8(slot.base)
        else:
            setattr(slot.parent, slot.name, in_int8(slot.base))
