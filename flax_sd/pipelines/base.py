"""What the pipelines of every kind of model share: loading, placing and saving their model."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from flax import nnx
from jax.sharding import Mesh, NamedSharding, Sharding

from flax_sd.files.json_values import JsonObject
from flax_sd.files.paths import named
from flax_sd.models.layers import Network
from flax_sd.system import compiler, sharding
from flax_sd.weights.family import ModelKind
from flax_sd.weights.fill import as_dtype
from flax_sd.weights.model import Model
from flax_sd.weights.model_files import ModelFiles

Loaded = TypeVar("Loaded", bound="Pipeline")


def network(name: str) -> Any:
    """Returns a property: a network of the model, which may be replaced."""
    return property(
        lambda self: self.model.networks[name],
        lambda self, replacement: self.model.networks.update({name: replacement}),
        doc=f"The {name} of the model, which may be replaced.",
    )


class Pipeline:
    """A loaded model.

    Attributes:
      kinds: the kinds of model that can be loaded.
      model: the loaded model, with the files that it came from.
    """

    kinds: ClassVar[tuple[ModelKind, ...]]

    def __init__(self, model: Model):
        """Wraps a loaded model; its networks are not copied."""
        self.model = model
        self._batch: Sharding | None = None

    @classmethod
    def load(
        cls: type[Loaded],
        source: str | os.PathLike[str],
        dtype: str = "float32",
        *,
        revision: str | None = None,
        variant: str | None = None,
        config: str | os.PathLike[str] | None = None,
        prediction_type: str | None = None,
        ema: bool = False,
    ) -> Loaded:
        """Loads a diffusers folder, a checkpoint in one file, a hub id, or "bundled:base".

        From here on compiled programs are kept in the user's cache folder, as by the commands,
        unless JAX's compilation cache is configured already.

        Args:
          source: the folder, the .safetensors file or the name of the model.
          dtype: dtype of the weights and the arithmetic: float32, bfloat16 or float16.
          revision: branch, tag or commit of a hub id.
          variant: weight files to load, such as "fp16" for `model.fp16.safetensors`.
          config: a diffusers folder whose configs, tokenizers and scheduler serve a file of sizes
            that no public model has.
          prediction_type: what the UNet predicts, epsilon or v_prediction, where the model's files
            say another one, or a file of Stable Diffusion 2.x says none.
          ema: read a file's running mean of the UNet in place of its last weights.

        Raises:
          UserError: there is no such model, it is damaged, its kind is not supported, or its
            components do not fit each other; all problems are named.
        """
        as_dtype(dtype)
        compiler.set_up()
        files = ModelFiles.find(source, revision, variant, config=config, ema=ema)
        scheduler = prediction_type and files.scheduler(prediction_type, zero_snr=False)
        return cls(Model.load(files, dtype, cls.kinds, scheduler or None))

    @property
    def source(self) -> str:
        """The source that `load` was called with."""
        return self.model.files.source

    @property
    def folder(self) -> pathlib.Path:
        """The folder of its files."""
        return self.model.files.folder

    @property
    def configs(self) -> dict[str, JsonObject]:
        """The raw config.json of each network, by component."""
        return self.model.files.configs

    @property
    def scheduler_config(self) -> JsonObject:
        """The raw scheduler_config.json, which may be replaced."""
        return self.model.scheduler_config

    @scheduler_config.setter
    def scheduler_config(self, config: JsonObject) -> None:
        self.model.scheduler_config = config

    @property
    def _networks(self) -> Mapping[str, Network]:
        """All networks by component."""
        return self.model.networks

    def distribute(self, mesh: Mesh) -> None:
        """Copies the networks to every device of a mesh, over which a call's images are divided.

        After this the number of images in a call must be a multiple of the number of devices.

        Args:
          mesh: the devices, as `jax.make_mesh` gives them.
        """
        if mesh.size > 1:
            for each in self._networks.values():
                nnx.update(each, sharding.replicate(nnx.state(each), mesh))
            self._batch = NamedSharding(mesh, sharding.BATCH)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a diffusers folder or a single file, without LoRAs and new tokens.

        It appears whole or not at all. A file has the names of the original code (LDM, sgm), which
        web UIs read.

        Args:
          path: the folder, or a name that ends in .safetensors; an earlier model is replaced.

        Raises:
          UserError: something else is at the path, a number is not finite, or the disk is full.
        """
        self.model.save(named(path), self._networks)
