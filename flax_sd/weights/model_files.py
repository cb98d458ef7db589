"""A model on disk: its configs, each read once, and its weights on request."""

import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from flax_sd.config import ModelConfig
from flax_sd.diffusion.scheduler_config import overridden
from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.models.layers import Network
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.weights import hub, networks
from flax_sd.weights.diffusers_folder import (
    component_files,
    component_tensors,
    read_json,
    save_component,
)
from flax_sd.weights.family import (
    KINDS,
    PROMPTED,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    Family,
    ModelKind,
    family_of,
)
from flax_sd.weights.fill import as_dtype, fill
from flax_sd.weights.identity import fingerprint


class ModelFiles:
    """A diffusers folder, and perhaps a VAE from elsewhere.

    Attributes:
      folder: the diffusers folder.
      source: the name that it was found by, such as a hub id.
      variant: variant of the weight files to read, such as fp16.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        source: str | None = None,
        variant: str | None = None,
        vae: pathlib.Path | None = None,
    ):
        """Stores the paths of the folder and of another VAE; reads nothing."""
        self.folder, self.variant = folder, variant
        self.source = str(folder) if source is None else source
        self._vae = folder / "vae" if vae is None else vae
        self._read: dict[str, JsonObject] = {}

    @classmethod
    def find(
        cls,
        source: str | os.PathLike[str],
        revision: str | None = None,
        variant: str | None = None,
        *,
        vae: str | None = None,
    ) -> "ModelFiles":
        """Finds a folder, a bundled model or a hub id, which is downloaded if necessary.

        Args:
          vae: another VAE in place of the model's: a folder or hub id.

        Raises:
          UserError: there is no such model or VAE.
        """
        folder = hub.resolve(source, revision, variant)
        other = None if vae is None else find_vae(vae, variant)
        return cls(folder, source=os.fspath(source), variant=variant, vae=other)

    @property
    def kind(self) -> ModelKind:
        """The kind of model by its index; Stable Diffusion if the index does not say."""
        index = self.index
        named = index.get("_class_name")
        found = next((kind for kind in KINDS if named in kind.classes), STABLE_DIFFUSION)
        absent = [name for name, value in index.items() if value == [None, None]]
        return found.without([name for name in absent if not self.place(name).is_dir()])

    def check_kind(self, wanted: Sequence[ModelKind] = PROMPTED) -> None:
        """Checks the kind of the model before any weights are read.

        Args:
          wanted: those that can be used.

        Raises:
          UserError: it is something else.
        """
        if not (self.folder / "model_index.json").is_file():
            raise UserError(f"{self.folder} is not a diffusers model: it has no model_index.json")
        named = self.index.get("_class_name") or STABLE_DIFFUSION.name
        if not any(named in kind.classes for kind in wanted):
            usable = " or ".join(f"{kind.name}{kind.versions}" for kind in wanted)
            raise UserError(f"{self.folder} is a {named}; only a {usable} can be used here")

    def place(self, component: str) -> pathlib.Path:
        """Returns the folder of a component's config.json and weights."""
        return self._vae if component == "vae" else self.folder / component

    def _json(self, path: pathlib.Path) -> JsonObject:
        key = str(path)
        if key not in self._read:
            self._read[key] = read_json(path)
        return dict(self._read[key])

    @property
    def index(self) -> JsonObject:
        """The raw model_index.json; empty where there is none."""
        return self._index(self.folder)

    def _index(self, folder: pathlib.Path) -> JsonObject:
        path = folder / "model_index.json"
        return self._json(path) if path.is_file() else {}

    def _class_of(self, place: pathlib.Path) -> tuple[str | None, str | None]:
        """Returns the library and class of a component by its model's index, or None for each."""
        match self._index(place.parent).get(place.name):
            case [str(library), str(name)]:
                return library, name
        return None, None

    def config(self, component: str) -> JsonObject:
        """Returns the raw config.json of a component, with the class that the index names.

        diffusers uses only the index: a config may name no class, or an old one.

        Raises:
          UserError: there is none.
        """
        place = self.place(component)
        raw = self._json(place / "config.json")
        library, name = self._class_of(place)
        if name is None:
            return raw
        return raw | (
            {"_class_name": name} if library == "diffusers" else {"architectures": [name]}
        )

    @property
    def configs(self) -> dict[str, JsonObject]:
        """The raw config.json of every component with weights."""
        return {name: self.config(name) for name in self.kind.networks}

    def network_config(self, component: str) -> Any:
        """Returns a component's checked config, from which its network is built.

        Raises:
          UserError: there is none, or a value is not supported.
        """
        return networks.network_config(self.config(component), str(self.place(component)))[1]

    @property
    def scheduler_config(self) -> JsonObject:
        """The raw scheduler_config.json, with the class that the index names.

        Raises:
          UserError: there is none.
        """
        place = self.folder / "scheduler"
        raw = self._json(place / "scheduler_config.json")
        _, name = self._class_of(place)
        return raw if name is None else raw | {"_class_name": name}

    def trained_scheduler(self, cfg: ModelConfig) -> JsonObject:
        """Returns the scheduler's config with the changes that a run's options make.

        Raises:
          UserError: the changes are not compatible.
        """
        try:
            return overridden(self.scheduler_config, cfg.prediction_type, zero_snr=cfg.zero_snr)
        except UserError as error:
            raise UserError(f"model.{error}") from error

    @property
    def zeros_for_no_prompt(self) -> bool:
        """Whether no negative prompt at all is zeros in place of the states of an empty one."""
        xl = self.kind.name == STABLE_DIFFUSION_XL.name
        return xl and self.index.get("force_zeros_for_empty_prompt", True) is True

    @property
    def family(self) -> Family:
        """The family of Stable Diffusion."""
        second = (self.folder / "text_encoder_2").is_dir()
        unet = self.config("unet") if self.place("unet").is_dir() else None
        first = {} if second else self.config("text_encoder")
        return family_of(first, unet, second_text_encoder=second)

    def tokenizer(self, name: str = "tokenizer") -> Tokenizer:
        """Reads a tokenizer.

        Raises:
          UserError: it is missing, or not a CLIP tokenizer.
        """
        return Tokenizer.load(self.folder / name)

    def files(self, component: str) -> list[pathlib.Path]:
        """Returns a component's safetensors files.

        Raises:
          UserError: there are none, or shards that its index names are missing.
        """
        place = self.place(component)
        return component_files(place.parent, place.name, self.variant)

    def tensors(self, component: str) -> Mapping[str, np.ndarray]:
        """Returns a component's tensors, each mapped from its file on access.

        Raises:
          UserError: a file is missing or damaged.
        """
        place = self.place(component)
        return component_tensors(place.parent, place.name, self.variant)

    def load(self, component: str, dtype: str) -> Any:
        """Returns a component's network, filled with its tensors.

        Raises:
          UserError: the config or the tensors do not fit; all problems are named.
        """
        where = str(self.place(component))
        model = networks.abstract_network(self.config(component), where)
        return fill(model, self.tensors(component), dtype, where)

    def random(self, component: str, dtype: str, key: jax.Array) -> Network:
        """Returns a component's network with random weights; its tensors are not read.

        Raises:
          UserError: the config is missing or not supported.
        """
        where = str(self.place(component))
        return networks.random_network(self.config(component), where, key, dtype)

    def abstract(self, component: str, dtype: str | None = None) -> Network:
        """Returns a component's network with shapes in place of weights, in `dtype` if given.

        Raises:
          UserError: the config is missing or not supported.
        """
        network = networks.abstract_network(self.config(component), str(self.place(component)))
        if dtype is None:
            return network
        target, (graph, state) = as_dtype(dtype), nnx.split(network)
        typed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, target), state)
        return nnx.merge(graph, typed)

    def fingerprint(self, components: Iterable[str]) -> str | None:
        """Returns a fingerprint of these components' weights; None for no component."""
        found = [file for component in components for file in self.files(component)]
        return fingerprint(found) if found else None

    def copy(self, component: str, target: pathlib.Path) -> None:
        """Copies a component into a model's folder unchanged, or a variant under plain names.

        Raises:
          UserError: it cannot be read.
        """
        if self.variant is None:
            shutil.copytree(self.place(component), target / component, ignore=_not_for_models)
        else:
            save_component(target, component, self.tensors(component), self.config(component))


def find_vae(source: str, variant: str | None = None) -> pathlib.Path:
    """Returns the folder of a separate VAE: one with a config.json, or a model's `vae`.

    Raises:
      UserError: there is none.
    """
    folder = hub.resolve(source, None, variant).absolute()
    return folder / "vae" if (folder / "vae" / "config.json").is_file() else folder


def _not_for_models(folder: str, names: list[str]) -> set[str]:
    """Returns what is not copied: sub-folders, hidden files, model cards and pickles."""
    return {
        name
        for name in names
        if name.startswith(".")
        or name.endswith((".md", ".bin", ".ckpt", ".pt", ".msgpack"))
        or os.path.isdir(os.path.join(folder, name))
    }
