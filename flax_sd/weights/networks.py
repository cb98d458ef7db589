"""Builds a component's network from its raw config.json."""

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.models.clip import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTextProjectionConfig,
)
from flax_sd.models.layers import Network
from flax_sd.models.tiny_vae import AutoencoderTiny, AutoencoderTinyConfig
from flax_sd.models.unet import UNet2DConditionModel
from flax_sd.models.unet_2d import UNet2DModel
from flax_sd.models.unet_2d_config import UNet2DConfig
from flax_sd.models.unet_config import UNetConfig
from flax_sd.models.vae import AutoencoderKL, AutoencoderKLConfig
from flax_sd.weights.fill import as_dtype

VAE = AutoencoderKL | AutoencoderTiny


class Kind(NamedTuple):
    """The reader of a network's config, and its class."""

    read: Callable[[JsonObject, str], Hashable]
    build: Callable[..., Network]


# By the class name in the config; transformers' configs hold it in a list.
KINDS: dict[str, Kind] = {
    "UNet2DModel": Kind(UNet2DConfig.from_json, UNet2DModel),
    "UNet2DConditionModel": Kind(UNetConfig.from_json, UNet2DConditionModel),
    "AutoencoderKL": Kind(AutoencoderKLConfig.from_json, AutoencoderKL),
    "AutoencoderTiny": Kind(AutoencoderTinyConfig.from_json, AutoencoderTiny),
    "CLIPTextModel": Kind(CLIPTextConfig.from_json, CLIPTextModel),
    "CLIPTextModelWithProjection": Kind(
        CLIPTextProjectionConfig.from_json, CLIPTextModelWithProjection
    ),
}


class OneKey(nnx.Rngs):
    """Gives every parameter the same key, for shapes alone.

    nnx.Rngs counts its draws; traced, each count is an operation on the one before, and the 686
    parameters of SD 1.5's UNet take ten times as long.
    """

    def __init__(self):
        super().__init__(0)

    @property
    def params(self) -> Callable[[], jax.Array]:
        """Returns a function that a layer calls for its key."""
        key = jax.random.key(0)
        return lambda: key


def abstract_network(raw: JsonObject, where: str) -> Network:
    """Returns the network that a raw config describes, with shapes in place of weights.

    Raises:
      UserError: the class or a value of the config is not supported.
    """
    return nnx.merge(*_shapes(*network_config(raw, where)), copy=True)


@functools.lru_cache(maxsize=16)
def _shapes(kind: Kind, config: Hashable) -> tuple[nnx.GraphDef, nnx.State]:
    """Traces a network's constructor, once in a process for each config."""
    return nnx.split(nnx.eval_shape(lambda: kind.build(config, rngs=OneKey())))


def random_network(raw: JsonObject, where: str, key: jax.Array, dtype: str) -> Network:
    """Returns the network that a raw config describes, with random weights.

    Raises:
      UserError: the class or a value of the config is not supported.
    """
    kind, config = network_config(raw, where)
    model = kind.build(config, rngs=nnx.Rngs(key))
    graph, state = nnx.split(model)
    target = as_dtype(dtype)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(target), state))


def network_config(raw: JsonObject, where: str) -> tuple[Kind, Any]:
    """Returns the kind of network that a raw config describes, and the checked config.

    Raises:
      UserError: the class or a value of the config is not supported.
    """
    named = _class_named(raw)
    if named not in KINDS:
        raise UserError(f"{where}: class {named} is not one of {', '.join(sorted(KINDS))}")
    kind = KINDS[named]
    return kind, kind.read(raw, f"{where}/config.json")


def _class_named(raw: Mapping[str, object]) -> str:
    """Returns the class that a config names, or that transformers uses for its type."""
    match raw:
        case {"_class_name": str(name)} | {"architectures": [str(name), *_]}:
            return name
        case {"model_type": "clip_text_model"}:
            return "CLIPTextModel"
    return "?"
