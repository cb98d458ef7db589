"""From a component's raw config.json to its network."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.models.clip import CLIPTextConfig, CLIPTextModel
from flax_sd.models.tiny_vae import AutoencoderTiny, AutoencoderTinyConfig
from flax_sd.models.unet import UNet2DConditionModel
from flax_sd.models.unet_2d import UNet2DModel
from flax_sd.models.unet_2d_config import UNet2DConfig
from flax_sd.models.unet_config import UNetConfig
from flax_sd.models.vae import AutoencoderKL, AutoencoderKLConfig
from flax_sd.weights.fill import as_dtype

VAE = AutoencoderKL | AutoencoderTiny


class Kind(NamedTuple):
    """How a network is built: its config's reader, and its class."""

    read: Callable[[dict[str, Any], str], Any]
    build: Callable[..., Any]


# By the class that the config names; transformers' configs name theirs in a list.
KINDS: dict[str, Kind] = {
    "UNet2DModel": Kind(UNet2DConfig.from_json, UNet2DModel),
    "UNet2DConditionModel": Kind(UNetConfig.from_json, UNet2DConditionModel),
    "AutoencoderKL": Kind(AutoencoderKLConfig.from_json, AutoencoderKL),
    "AutoencoderTiny": Kind(AutoencoderTinyConfig.from_json, AutoencoderTiny),
    "CLIPTextModel": Kind(CLIPTextConfig.from_json, CLIPTextModel),
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
        """What a layer calls for its key."""
        key = jax.random.key(0)
        return lambda: key


def abstract_network(raw: dict[str, Any], where: str) -> Any:
    """The network that a raw config describes, its leaves shapes only.

    Raises:
      UserError: the class or a value of the config is not supported.
    """
    return nnx.merge(*_shapes(*network_config(raw, where)), copy=True)


@functools.lru_cache(maxsize=16)
def _shapes(kind: Kind, config: Any) -> tuple[nnx.GraphDef, nnx.State]:
    """Traces a network's constructor, once a process for each config."""
    return nnx.split(nnx.eval_shape(lambda: kind.build(config, rngs=OneKey())))


def random_network(raw: dict[str, Any], where: str, key: jax.Array, dtype: str) -> Any:
    """Returns the network that a raw config describes, with fresh random weights.

    Raises:
      UserError: the class or a value of the config is not supported.
    """
    kind, config = network_config(raw, where)
    model = kind.build(config, rngs=nnx.Rngs(key))
    graph, state = nnx.split(model)
    target = as_dtype(dtype)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(target), state))


def network_config(raw: dict[str, Any], where: str) -> tuple[Kind, Any]:
    """How the network of a raw config is built, and its config, read and checked.

    Raises:
      UserError: the class or a value of the config is not supported.
    """
    named = _class_named(raw)
    if named not in KINDS:
        raise UserError(f"{where}: class {named} is not one of {', '.join(sorted(KINDS))}")
    kind = KINDS[named]
    return kind, kind.read(raw, f"{where}/config.json")


def _class_named(raw: Mapping[str, Any]) -> str:
    """The class that a config names, or that transformers builds of its type."""
    match raw:
        case {"_class_name": str(name)} | {"architectures": [str(name), *_]}:
            return name
        case {"model_type": "clip_text_model"}:
            return "CLIPTextModel"
    return "?"
