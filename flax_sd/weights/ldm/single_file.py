"""A checkpoint in one file, read as a diffusers folder is."""

import os
import pathlib
from collections.abc import Collection, Mapping

import numpy as np

from flax_sd.diffusion.scheduler_config import overridden
from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.weights.deferred import Deferred
from flax_sd.weights.diffusers_folder import current_names, read_json
from flax_sd.weights.family import STABLE_DIFFUSION_XL, Family
from flax_sd.weights.ldm.configs import component_config
from flax_sd.weights.ldm.contents import Contents, Tensors, component_shapes
from flax_sd.weights.ldm.facts import Facts, read_facts
from flax_sd.weights.ldm.finite import broken_unused
from flax_sd.weights.ldm.header import latent_side
from flax_sd.weights.ldm.leftovers import Leftovers
from flax_sd.weights.ldm.parts import part_to_write
from flax_sd.weights.ldm.templates import base_configs, base_tokenizer
from flax_sd.weights.safetensors import TensorFile

NETWORKS = STABLE_DIFFUSION_XL.networks  # all that any family has
_CLASSES = {  # of a task and whether it is SDXL -> diffusers' class
    ("inpainting", False): "StableDiffusionInpaintPipeline",
    ("inpainting", True): "StableDiffusionXLInpaintPipeline",
    ("edit", False): "StableDiffusionInstructPix2PixPipeline",
    ("edit", True): "StableDiffusionXLInstructPix2PixPipeline",
}


class SingleFile:
    """A `.safetensors` checkpoint under LDM names, with the interface of `ModelFiles`.

    The configs, which such a file lacks, are those of the family's public model with the sizes of
    the file's tensors; the tokenizers are CLIP's. No tensor is read before it is asked for.

    Attributes:
      path: the file.
      folder: the same, by the name that `ModelFiles` has for it.
      facts: its family, its task, and what its UNet predicts.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        ema: bool = False,
        config: pathlib.Path | None = None,
    ):
        """Reads the header.

        Args:
          ema: whether the UNet's running mean is read in place of its last weights.
          config: a diffusers folder whose configs, tokenizers and scheduler serve a file of
            unusual sizes.

        Raises:
          UserError: the file is damaged, no Stable Diffusion, or marked as one that is not
            supported.
        """
        self.path = self.folder = pathlib.Path(path)
        self._file, self._config = TensorFile(path), config
        self._shapes = {name: self._file.shape(name) for name in self._file}
        self._contents = Contents(self._shapes, str(path), ema=ema)
        self.facts: Facts = read_facts(
            self._shapes, self._file.metadata, self._contents.parts, str(path)
        )
        # A VAE tells no family; SD 1.x's config names no scaling factor, as such a file does not.
        self._base = base_configs(self.facts.template or "sd1")
        if foreign := [name for name in self.components if name not in self._base]:
            raise UserError(
                f"{path} mixes families: its UNet is of {self.facts.template}, which has no "
                f"{' and no '.join(foreign)}; name a checkpoint of one family"
            )

    @property
    def components(self) -> list[str]:
        """The components in the file, by their names in a diffusers folder."""
        return sorted(self._contents.places)

    @property
    def family(self) -> Family:
        """The family of Stable Diffusion.

        Raises:
          UserError: the file is a part that does not tell it, such as a VAE.
        """
        if self.facts.family is None:
            raise UserError(f"{self.path} holds only {self._there()}; name a whole checkpoint")
        return self.facts.family

    @property
    def index(self) -> JsonObject:
        """The model_index.json that a diffusers folder of this model has."""
        if self._config is not None and (self._config / "model_index.json").is_file():
            return read_json(self._config / "model_index.json")
        name = _CLASSES.get((self.facts.task, self.facts.family == "sdxl"))
        return self._base["model_index.json"] | ({"_class_name": name} if name else {})

    def check(self, given: Collection[str] = ()) -> None:
        """Checks that it is a whole model.

        Args:
          given: components that come from elsewhere.

        Raises:
          UserError: others are missing.
        """
        index = self._base["model_index.json"]
        wanted = [name for name in NETWORKS if index.get(name, [None, None]) != [None, None]]
        self._check_there(*(name for name in wanted if name not in given))

    def has(self, component: str) -> bool:
        """Tells whether the file holds the component."""
        return component in self._contents.places

    def place(self, component: str) -> pathlib.Path:
        """Returns the file, which holds every component."""
        self._check_there(component)
        return self.path

    def config(self, component: str) -> JsonObject:
        """Returns the raw config.json of a component: unet, vae, text_encoder or text_encoder_2.

        Of a file that is a VAE alone it has no scaling factor: keep that of the model.

        Raises:
          UserError: the file lacks the component, or has sizes that no public model has.
        """
        self._check_there(component)
        if self._config is not None:
            return read_json(self._config / component / "config.json")
        shapes = component_shapes(self._shapes, self._contents.places[component])
        raw = component_config(component, shapes, self._base[component], str(self.path))
        if (side := self.facts.side) and component in ("unet", "vae"):
            raw["sample_size"] = side // 8 if component == "unet" else side
        return raw

    @property
    def config_of_vae(self) -> JsonObject:
        """The config of the model's VAE, which the file may lack."""
        if self.has("vae"):
            return self.config("vae")
        own = None if self._config is None else self._config / "vae" / "config.json"
        return read_json(own) if own and own.is_file() else dict(self._base["vae"])

    @property
    def configs(self) -> dict[str, JsonObject]:
        """The raw config.json of every component in the file."""
        return {name: self.config(name) for name in self.components}

    @property
    def scheduler_config(self) -> JsonObject:
        """The raw scheduler_config.json.

        Raises:
          UserError: nothing tells what the UNet predicts.
        """
        return self.scheduler(None, zero_snr=False)

    def scheduler(self, prediction_type: str | None, *, zero_snr: bool) -> JsonObject:
        """Returns the scheduler's config with changes.

        Raises:
          UserError: nothing tells what the UNet predicts, or the changes are not compatible; the
            sentence begins with the option's name.
        """
        prediction = prediction_type or self.facts.prediction
        if prediction is None and self.facts.unclear:
            raise UserError(f"prediction_type is not set, and {self.path} {self.facts.unclear}")
        if self._config is not None:
            raw = read_json(self._config / "scheduler" / "scheduler_config.json")
        elif self.facts.template == "sd2" and prediction is None:
            raise UserError(
                f"prediction_type is not set, {self.path} does not say what its UNet predicts, and "
                "SD 2.x has both kinds: set it to epsilon (2.x base, 512 pixels) or v_prediction "
                "(768 pixels)"
            )
        else:
            raw = self._base["scheduler"]
        marked = self.facts.zero_snr and not zero_snr
        try:
            return overridden(raw, prediction, zero_snr=marked or zero_snr)
        except UserError as error:
            if not marked:
                raise
            raise UserError(
                f"prediction_type should be v_prediction: {self.path} is marked ztsnr, a schedule "
                "that ends in pure noise"
            ) from error

    def tokenizer(self, name: str = "tokenizer") -> Tokenizer:
        """Returns a tokenizer: CLIP's, with the padding of the text encoder of that number.

        Raises:
          UserError: this family has no such tokenizer.
        """
        if self._config is not None:
            return Tokenizer.load(self._config / name)
        if name not in self._base:
            raise UserError(f"{self.path} is of family {self.family}, which has no {name}")
        return base_tokenizer(self._base[name]["pad_token"])

    def files(self, component: str) -> list[pathlib.Path]:
        """Returns the safetensors files of a component: this one.

        Raises:
          UserError: the file lacks the component.
        """
        return [self.place(component)]

    def tensors(self, component: str) -> Mapping[str, np.ndarray]:
        """Returns a component's tensors under their current names, each mapped on access.

        Raises:
          UserError: the file lacks the component.
        """
        self._check_there(component)
        tensors = Tensors(self._file, self._contents.places[component])
        return current_names(tensors) if component == "vae" else tensors

    def checked_tensors(self, component: str) -> dict[str, np.ndarray]:
        """Returns a component's tensors when every number that is used is finite; reads all.

        Broken tensors that the family never reads are named in a log warning, and are zeros.

        Raises:
          UserError: some that are used are not finite; all are named.
        """
        tensors = dict(self.tensors(component))
        broken = broken_unused(tensors, component, self.facts.template, str(self.path))
        return tensors | {key: np.zeros_like(tensors[key]) for key in broken}

    @property
    def leftovers(self) -> Leftovers:
        """What no component has, under the names that a new file has for it."""
        names = {self._new_name(name): name for name in self._contents.left}
        tensors = {new: Deferred.of(self._file, name) for new, name in names.items()}
        return Leftovers(tensors, self._file.metadata)

    def _new_name(self, name: str) -> str:
        """Returns a leftover's name beside components under the prefixes that all programs read."""
        owner = self._contents.owner(name)
        if owner is None or self.facts.template is None:
            return name
        keys = self._contents.places[owner.component]
        prefix = part_to_write(owner.component, self.facts.template, keys).prefix
        return prefix + name.removeprefix(owner.prefix)

    @property
    def side(self) -> int | None:
        """Pixels of a square image that it was trained on; the public model's if nothing says."""
        if self.facts.side is not None:
            return self.facts.side
        configs = self._base if self._config is None else self.configs
        return latent_side(configs["unet"], configs["vae"])

    def _check_there(self, *components: str) -> None:
        missing = [name for name in components if not self.has(name)]
        if missing:
            raise UserError(
                f"{self.path} has no {' and no '.join(missing)}: it holds {self._there()}; name a "
                "checkpoint that holds all components, or a diffusers folder (a VAE may be named "
                "by itself)"
            )

    def _there(self) -> str:
        return " and ".join(self.components)
