"""The networks of a diffusers folder: from its config.json and its tensors to filled modules."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from flax_sd.config import ModelConfig
from flax_sd.diffusion.scheduler_config import overridden
from flax_sd.errors import UserError
from flax_sd.models.clip import CLIPTextConfig, CLIPTextModel
from flax_sd.models.tiny_vae import AutoencoderTiny, AutoencoderTinyConfig
from flax_sd.models.unet import UNet2DConditionModel
from flax_sd.models.unet_2d import UNet2DModel
from flax_sd.models.unet_2d_config import UNet2DConfig
from flax_sd.models.unet_config import UNetConfig
from flax_sd.models.vae import AutoencoderKL, AutoencoderKLConfig
from flax_sd.weights import hub
from flax_sd.weights.diffusers_folder import component_tensors, read_json
from flax_sd.weights.fill import as_dtype, fill

VAE = AutoencoderKL | AutoencoderTiny
PIPELINE, DDPM = "StableDiffusionPipeline", "DDPMPipeline"
# Pipelines whose folders hold the same parts as the wanted one's, so that diffusers loads them so.
_SAME_PARTS = {
    PIPELINE: ("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
    DDPM: (),
}


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


def check_kind(folder: pathlib.Path, wanted: str = PIPELINE) -> None:
    """Sees before anything is read that a folder is a model of the wanted kind.

    Raises:
      UserError: it is something else.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a diffusers model: it has no model_index.json")
    kind = read_json(path).get("_class_name") or wanted
    if kind not in (wanted, *_SAME_PARTS[wanted]):
        versions = " (1.x or 2.x)" if wanted == PIPELINE else ""
        raise UserError(f"{folder} is a {kind}; a {wanted}{versions} is what can be loaded")


def read_component_config(folder: pathlib.Path, component: str) -> dict[str, Any]:
    """The raw config.json of a component, with the class that its model's index names.

    diffusers goes by the index alone; a config need not name a class, and may name an older one.

    Raises:
      UserError: there is none.
    """
    raw = read_json(folder / component / "config.json")
    library, name = _indexed(folder, component)
    if name is None:
        return raw
    return raw | ({"_class_name": name} if library == "diffusers" else {"architectures": [name]})


def read_scheduler_config(folder: pathlib.Path) -> dict[str, Any]:
    """The raw scheduler_config.json of a model, with the class that its index names.

    Raises:
      UserError: there is none.
    """
    raw = read_json(folder / "scheduler" / "scheduler_config.json")
    _, name = _indexed(folder, "scheduler")
    return raw if name is None else raw | {"_class_name": name}


def _indexed(folder: pathlib.Path, component: str) -> tuple[str | None, str | None]:
    """Library and class of a component by its model's index; None where it names none."""
    path = folder / "model_index.json"
    entry = read_json(path).get(component) if path.is_file() else None
    match entry:
        case [str(library), str(name)]:
            return library, name
    return None, None


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


def load_network(
    folder: pathlib.Path, component: str, dtype: str, variant: str | None = None
) -> Any:
    """A component of a diffusers folder, filled with its tensors.

    Raises:
      UserError: the config or the tensors do not fit; every misfit is named.
    """
    where = str(folder / component)
    model = abstract_network(read_component_config(folder, component), where)
    return fill(model, component_tensors(folder, component, variant), dtype, where)


def random_network(folder: pathlib.Path, component: str, key: jax.Array, dtype: str) -> Any:
    """The component that the folder's config describes, with fresh random weights.

    Raises:
      UserError: the config is missing or not supported.
    """
    where = str(folder / component)
    kind, config = network_config(read_component_config(folder, component), where)
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


def scheduler_of(folder: pathlib.Path, model: ModelConfig) -> dict[str, Any]:
    """The model's scheduler config with what the run's config changes in it.

    Raises:
      UserError: the changes do not go together.
    """
    raw = read_scheduler_config(folder)
    try:
        return overridden(raw, model.prediction_type, zero_snr=model.zero_snr)
    except UserError as error:
        raise UserError(f"model.{error}") from error


def find_vae(source: str, variant: str | None = None) -> pathlib.Path:
    """The folder of a VAE of its own: one with its config.json, or a model's sub-folder `vae`.

    Raises:
      UserError: there is none.
    """
    folder = hub.resolve(source, None, variant).absolute()
    return folder / "vae" if (folder / "vae" / "config.json").is_file() else folder


def load_vae(source: str, dtype: str, variant: str | None = None) -> VAE:
    """The VAE that `find_vae` finds.

    Raises:
      UserError: there is none, or it does not fit.
    """
    folder = find_vae(source, variant)
    return load_network(folder.parent, folder.name, dtype, variant)


def stride(vae: VAE) -> int:
    """Pixels a latent, along each side."""
    is_kl = isinstance(vae, AutoencoderKL)
    widths = vae.config.block_out_channels if is_kl else vae.config.encoder_block_out_channels
    return 2 ** (len(widths) - 1)
