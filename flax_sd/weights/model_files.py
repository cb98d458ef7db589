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
from flax_sd.errors import UserError
from flax_sd.files import paths
from flax_sd.files.json_values import JsonObject
from flax_sd.models.layers import Network
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.weights import hub, networks
from flax_sd.weights.diffusers_folder import save_component
from flax_sd.weights.family import (
    KINDS,
    PROMPTED,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    VAE_SCALES,
    Family,
    ModelKind,
)
from flax_sd.weights.fill import as_dtype, fill
from flax_sd.weights.identity import display_name, fingerprint
from flax_sd.weights.ldm.leftovers import Leftovers
from flax_sd.weights.ldm.parts import TEMPLATES, Template
from flax_sd.weights.ldm.single_file import SingleFile
from flax_sd.weights.model_folder import ModelFolder


class ModelFiles:
    """A diffusers folder or a checkpoint in one file, and perhaps a VAE from elsewhere.

    Attributes:
      folder: the diffusers folder, or the file.
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
        config: pathlib.Path | None = None,
        ema: bool = False,
    ):
        """Stores the paths of the model and of another VAE; of a file it reads the header.

        Args:
          config: a folder whose configs, tokenizers and scheduler serve a file of unusual sizes.
          ema: whether a file's running mean of the UNet is read in place of its last weights.

        Raises:
          UserError: the file is damaged or no Stable Diffusion, or a folder needs no `config` and
            no `ema`.
        """
        self.folder, self.variant = folder, variant
        self.source = str(folder) if source is None else source
        if folder.is_file():
            self._model = SingleFile(folder, config=config, ema=ema)
        elif config is not None or ema:
            what = f"config {config}" if config is not None else "ema"
            raise UserError(f"{what}: {folder} is a folder, and has configs and weights of its own")
        else:
            self._model = ModelFolder(folder, variant)
        self._vae = None if vae is None else _vae_parts(vae, variant)

    @classmethod
    def find(
        cls,
        source: str | os.PathLike[str],
        revision: str | None = None,
        variant: str | None = None,
        *,
        vae: str | None = None,
        config: str | os.PathLike[str] | None = None,
        ema: bool = False,
    ) -> "ModelFiles":
        """Finds a folder, a file, a bundled model or a hub id, which is downloaded if necessary.

        Args:
          vae: another VAE in place of the model's: a folder, a file or a hub id.
          config, ema: as of the constructor.

        Raises:
          UserError: there is no such model or VAE.
        """
        folder = hub.resolve(source, revision, variant)
        other = None if vae is None else find_vae(vae, variant)
        serving = None if config is None else hub.resolve(config)
        named = os.fspath(source)
        return cls(folder, source=named, variant=variant, vae=other, config=serving, ema=ema)

    def _of(self, component: str) -> ModelFolder | SingleFile:
        """Returns where a component is."""
        return self._vae if component == "vae" and self._vae is not None else self._model

    @property
    def kind(self) -> ModelKind:
        """The kind of model by its index; Stable Diffusion if the index does not say."""
        index = self.index
        named = index.get("_class_name")
        found = next((kind for kind in KINDS if named in kind.classes), STABLE_DIFFUSION)
        parts = (*found.networks, *found.tokenizers)
        absent = [name for name in parts if index.get(name) == [None, None]]
        return found.without([name for name in absent if not self._of(name).has(name)])

    def check_kind(self, wanted: Sequence[ModelKind] = PROMPTED) -> None:
        """Checks the kind of the model, and a VAE from elsewhere, before any weights are read.

        Args:
          wanted: those that can be used.

        Raises:
          UserError: it is something else, or the VAE is of another family, where it tells its own.
        """
        self._model.check(given=() if self._vae is None else ("vae",))
        named = self.index.get("_class_name") or STABLE_DIFFUSION.name
        if not any(named in kind.classes for kind in wanted):
            usable = " or ".join(f"{kind.name}{kind.versions}" for kind in wanted)
            raise UserError(f"{self.folder} is a {named}; only a {usable} can be used here")
        self._check_vae()

    def _check_vae(self) -> None:
        if self._vae is None:
            return
        usual = VAE_SCALES[self.family]
        if isinstance(self._vae, SingleFile):  # one that is a VAE alone does not tell
            scale = VAE_SCALES[self._vae.facts.family or self.family]
        else:
            scale = self._vae.config("vae").get("scaling_factor")
        lacking = isinstance(self._model, ModelFolder) and not self._model.has("vae")
        own = usual if lacking else self._model.config_of_vae.get("scaling_factor")
        if scale in VAE_SCALES.values() and scale not in (usual, own):
            raise UserError(
                f"the VAE {self.place('vae')} is of another family, whose latents have the scale "
                f"{scale}; those of {self.folder} have {usual}: name a VAE of its own family"
            )

    def place(self, component: str) -> pathlib.Path:
        """Returns the folder of a component's config.json and weights, or the file."""
        return self._of(component).place(component)

    @property
    def index(self) -> JsonObject:
        """The raw model_index.json; empty where there is none."""
        return self._model.index

    def config(self, component: str) -> JsonObject:
        """Returns the raw config.json of a component, with the class that the index names.

        Raises:
          UserError: there is none.
        """
        if component == "vae" and isinstance(self._vae, SingleFile):
            return self._model.config_of_vae  # a VAE's file does not say the scale of its latents
        return self._of(component).config(component)

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
          UserError: there is none, or a file does not say what its UNet predicts.
        """
        return self._model.scheduler_config

    def scheduler(self, prediction_type: str | None, *, zero_snr: bool) -> JsonObject:
        """Returns the scheduler's config with the changes of options.

        Raises:
          UserError: they are not compatible; the sentence begins with the option's name.
        """
        return self._model.scheduler(prediction_type, zero_snr=zero_snr)

    def trained_scheduler(self, cfg: ModelConfig) -> JsonObject:
        """Returns the scheduler's config with the changes that a run's options make.

        Raises:
          UserError: the changes are not compatible.
        """
        try:
            return self.scheduler(cfg.prediction_type, zero_snr=cfg.zero_snr)
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
        return self._model.family

    @property
    def template(self) -> Template:
        """The kind of model that a single file of it is.

        Raises:
          UserError: it is of none.
        """
        kind = self.kind
        if kind.name not in {known.name for known in PROMPTED}:
            raise UserError(f"{self.folder} is a {kind.name}, which has no form in one file")
        return TEMPLATES[self.family, len(kind.text_encoders)]

    @property
    def title(self) -> str:
        """The name of the model, without the path of a folder or the ending of a file."""
        return display_name(self.source).removesuffix(".safetensors")

    @property
    def leftovers(self) -> Leftovers:
        """What a single file of it holds beside the components."""
        return self._model.leftovers

    @property
    def side(self) -> int | None:
        """Pixels of a square image that it was trained on; None if nothing says."""
        return self._model.side

    def tokenizer(self, name: str = "tokenizer") -> Tokenizer:
        """Reads a tokenizer.

        Raises:
          UserError: it is missing, or not a CLIP tokenizer.
        """
        return self._model.tokenizer(name)

    def files(self, component: str) -> list[pathlib.Path]:
        """Returns a component's safetensors files.

        Raises:
          UserError: there are none, or shards that its index names are missing.
        """
        return self._of(component).files(component)

    def tensors(self, component: str) -> Mapping[str, np.ndarray]:
        """Returns a component's tensors, each mapped from its file on access.

        Raises:
          UserError: a file is missing or damaged.
        """
        return self._of(component).tensors(component)

    def load(self, component: str, dtype: str) -> Any:
        """Returns a component's network, filled with its tensors.

        Raises:
          UserError: the config or the tensors do not fit; all problems are named.
        """
        where = str(self.place(component))
        model = networks.abstract_network(self.config(component), where)
        return fill(model, self._of(component).checked_tensors(component), dtype, where)

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
        return fingerprint(dict.fromkeys(found)) if found else None

    def copy(self, component: str, target: pathlib.Path) -> None:
        """Copies a component into a model's folder unchanged, or a variant under plain names.

        Raises:
          UserError: it cannot be read.
        """
        if self.variant is None and self.place(component).is_dir():
            shutil.copytree(self.place(component), target / component, ignore=_not_for_models)
        else:
            save_component(target, component, self.tensors(component), self.config(component))


def find_vae(source: str, variant: str | None = None) -> pathlib.Path:
    """Returns the folder of a separate VAE, one with a config.json or a model's `vae`, or its file.

    Raises:
      UserError: there is none.
    """
    own = None if paths.named(source).is_file() else variant  # which is the model's
    folder = hub.resolve(source, None, own).absolute()
    return folder / "vae" if (folder / "vae" / "config.json").is_file() else folder


def _vae_parts(vae: pathlib.Path, variant: str | None) -> ModelFolder | SingleFile:
    return SingleFile(vae) if vae.is_file() else ModelFolder(vae, variant, "vae")


def _not_for_models(folder: str, names: list[str]) -> set[str]:
    """Returns what is not copied: sub-folders, hidden files, model cards and pickles."""
    return {
        name
        for name in names
        if name.startswith(".")
        or name.endswith((".md", ".bin", ".ckpt", ".pt", ".msgpack"))
        or os.path.isdir(os.path.join(folder, name))
    }
