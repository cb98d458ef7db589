"""A model as a diffusers folder: its configs, each read once, and its tensors on request."""

import pathlib
from collections.abc import Collection, Mapping

import numpy as np

from flax_sd.diffusion.scheduler_config import overridden
from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.weights.diffusers_folder import component_files, component_tensors, read_json
from flax_sd.weights.family import Family, family_of
from flax_sd.weights.ldm.header import latent_side
from flax_sd.weights.ldm.leftovers import Leftovers


class ModelFolder:
    """A diffusers folder, or with `component` the folder of one component.

    Attributes:
      folder: the folder.
    """

    def __init__(
        self, folder: pathlib.Path, variant: str | None = None, component: str | None = None
    ):
        """Stores the paths; reads nothing.

        Args:
          variant: variant of the weight files to read, such as fp16.
          component: the folder is that of this component alone.
        """
        self.folder, self._variant, self._only = folder, variant, component
        self._read: dict[str, JsonObject] = {}

    def check(self, given: Collection[str] = ()) -> None:
        """Checks that it is a model.

        Args:
          given: components that come from elsewhere.

        Raises:
          UserError: it has no index.
        """
        if not (self.folder / "model_index.json").is_file():
            raise UserError(f"{self.folder} is not a diffusers model: it has no model_index.json")

    @property
    def index(self) -> JsonObject:
        """The raw model_index.json; empty where there is none."""
        return self._index(self.folder)

    def _index(self, folder: pathlib.Path) -> JsonObject:
        path = folder / "model_index.json"
        return self._json(path) if path.is_file() else {}

    def _json(self, path: pathlib.Path) -> JsonObject:
        key = str(path)
        if key not in self._read:
            self._read[key] = read_json(path)
        return dict(self._read[key])

    def place(self, component: str) -> pathlib.Path:
        """Returns the folder of a component's config.json and weights."""
        return self.folder if component == self._only else self.folder / component

    def has(self, component: str) -> bool:
        """Tells whether the component is there."""
        return self.place(component).is_dir()

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
        if self.folder.is_dir() and not place.is_dir():
            there = sorted(path.name for path in self.folder.iterdir() if path.is_dir())
            raise UserError(
                f"{self.folder} has no {component}: it holds {', '.join(there) or 'no parts'}; "
                "name a whole model, or download this one again"
            )
        raw = self._json(place / "config.json")
        library, name = self._class_of(place)
        if name is None:
            return raw
        return raw | (
            {"_class_name": name} if library == "diffusers" else {"architectures": [name]}
        )

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

    def scheduler(self, prediction_type: str | None, *, zero_snr: bool) -> JsonObject:
        """Returns the scheduler's config with changes.

        Raises:
          UserError: they are not compatible; the sentence begins with the option's name.
        """
        return overridden(self.scheduler_config, prediction_type, zero_snr=zero_snr)

    @property
    def family(self) -> Family:
        """The family of Stable Diffusion."""
        second, first = self.has("text_encoder_2"), self.has("text_encoder")
        unet = self.config("unet") if self.has("unet") else None
        text = self.config("text_encoder") if first or not second else {}
        return family_of(text, unet, second_text_encoder=second)

    def tokenizer(self, name: str) -> Tokenizer:
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
        return component_files(place.parent, place.name, self._variant)

    @property
    def config_of_vae(self) -> JsonObject:
        """The config of the model's VAE."""
        return self.config("vae")

    def tensors(self, component: str) -> Mapping[str, np.ndarray]:
        """Returns a component's tensors, each mapped from its file on access.

        Raises:
          UserError: a file is missing or damaged.
        """
        place = self.place(component)
        return component_tensors(place.parent, place.name, self._variant)

    def checked_tensors(self, component: str) -> Mapping[str, np.ndarray]:
        """Returns the tensors; those of a folder are checked where their numbers are used."""
        return self.tensors(component)

    @property
    def leftovers(self) -> Leftovers:
        """What a single file, of which the folder was made, held beside the components."""
        return Leftovers.of_folder(self.folder)

    @property
    def side(self) -> int | None:
        """Pixels of a square image that it was trained on; None if its configs do not say."""
        return latent_side(self.config("unet"), self.config("vae"))
