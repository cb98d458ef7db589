"""A model in memory: networks, tokenizers, scheduler config, and the files they came from."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flax import nnx

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.models.layers import Network
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.models.unet_conditions import SCORED, SIZED
from flax_sd.weights.diffusers_folder import save_component, write_json, written_aside
from flax_sd.weights.family import DDPM, PROMPTED, ModelKind
from flax_sd.weights.fill import dtype_name, rounded, state_tensors
from flax_sd.weights.model_files import ModelFiles


@dataclasses.dataclass
class Model:
    """A loaded model.

    Attributes:
      files: the files that it was loaded from.
      networks: by component; in training only those that the mode needs.
      tokenizers: one for each text encoder.
      scheduler_config: the raw scheduler_config.json, with any changes by options.
    """

    files: ModelFiles
    networks: dict[str, Network]
    tokenizers: list[Tokenizer]
    scheduler_config: JsonObject

    @classmethod
    def load(
        cls,
        files: ModelFiles,
        dtype: str,
        wanted: Sequence[ModelKind] = PROMPTED,
        scheduler: JsonObject | None = None,
    ) -> "Model":
        """Loads every component.

        Args:
          dtype: dtype of all weights: float32, bfloat16 or float16.
          wanted: the kinds that can be used.
          scheduler: a scheduler config in place of the model's own.

        Raises:
          UserError: it is of another kind, damaged or not supported, or its components do not fit
            each other; all problems are named.
        """
        files.check_kind(wanted)
        kind = files.kind
        # Before the weights, which take long: a file may not say what its UNet predicts.
        config = files.scheduler_config if scheduler is None else scheduler
        loaded = {name: files.load(name, dtype) for name in kind.networks}
        tokenizers = [files.tokenizer(name) for name in kind.tokenizers]
        model = cls(files, loaded, tokenizers, config)
        model.check_fit()
        return model

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the first text encoder."""
        return self.tokenizers[0]

    @property
    def pixels_per_latent(self) -> int:
        """Pixels per latent, along each side."""
        return self.networks["vae"].config.pixels_per_latent

    def check_fit(self) -> None:
        """Checks that the networks fit each other.

        Raises:
          UserError: they do not; all problems are named.
        """
        if problems := self.misfits():
            raise UserError(
                f"{self.files.folder}: its components do not fit: {'; '.join(problems)}"
            )

    def misfits(self) -> list[str]:
        """Returns a sentence for each pair of networks that do not fit each other."""
        configs = {name: network.config for name, network in self.networks.items()}
        unet, vae = configs.get("unet"), configs.get("vae")
        texts = [configs[name] for name in self.files.kind.text_encoders if name in configs]
        problems = []
        if unet and vae and unet.in_channels != vae.latent_channels:
            place = self.files.place("vae")
            named = "the VAE" if place.parent == self.files.folder else f"the VAE {place}"
            problems.append(
                f"the UNet reads {unet.in_channels} channels, {named} has {vae.latent_channels} "
                "(a UNet that reads 9 is for inpainting, which is not supported)"
            )
        if unet and texts and len(texts) == len(self.files.kind.text_encoders):
            problems += _text_misfits(unet, texts)
        return problems

    def save(
        self,
        path: pathlib.Path,
        parts: Mapping[str, nnx.Module | nnx.State] | None = None,
        *,
        dtype: str | None = None,
        changed: Mapping[str, object] | None = None,
        index: Mapping[str, object] | None = None,
    ) -> None:
        """Writes a folder for diffusers' `from_pretrained`, whole or not at all.

        LoRAs and new tokens inside the networks are left out.

        Args:
          path: a new or empty folder, or a model to replace.
          parts: components whose weights are written, the others are copied unchanged; None for
            all networks.
          dtype: dtype of the written weights; None keeps their own.
          changed: new values in their config.json.
          index: further entries of model_index.json.

        Raises:
          UserError: something else is at the path, a number is not finite, or the disk is full.
        """
        if path.suffix in (".safetensors", ".ckpt"):
            raise UserError(f"{path}: single files are not written; name a folder")
        files, parts = self.files, self.networks if parts is None else parts
        with written_aside(path) as aside:
            for name in files.kind.networks:
                if name not in parts:
                    files.copy(name, aside)
                    continue
                target = dtype or dtype_name(parts[name])
                config = files.config(name)
                # transformers' configs say the dtype, and its loader believes them.
                said = {key: target for key in ("dtype", "torch_dtype") if key in config}
                tensors = rounded(state_tensors(parts[name]), target, path / name)
                save_component(aside, name, tensors, {**config, **(changed or {}), **said})
            # Some modes of training load none.
            read = self.tokenizers or [files.tokenizer(name) for name in files.kind.tokenizers]
            for name, tokenizer in zip(files.kind.tokenizers, read, strict=True):
                tokenizer.save(aside / name)
            write_json(aside / "scheduler" / "scheduler_config.json", self.scheduler_config)
            write_json(aside / "model_index.json", self._index() | dict(index or {}))

    def _index(self) -> JsonObject:
        """Returns the index, with null for the components that are not there."""
        index = self.files.index
        if name := self.scheduler_config.get("_class_name"):
            index["scheduler"] = ["diffusers", name]
        if self.files.kind == DDPM:
            return index
        index["vae"] = ["diffusers", self.files.config("vae")["_class_name"]]
        return {**index, **self.files.kind.unwritten}


def _text_misfits(unet: Any, texts: Sequence[Any]) -> Iterator[str]:
    """Yields what does not fit between a UNet's config and those of all text encoders."""
    widths = [text.hidden_size for text in texts]
    if unet.cross_attention_dim != sum(widths):
        what = "the text encoder has width" if len(widths) == 1 else "the text encoders have widths"
        yield (
            f"the UNet reads text of width {unet.cross_attention_dim}, {what} "
            f"{' and '.join(map(str, widths))}"
        )
    if unet.addition_embed_type is not None:
        pooled = getattr(texts[-1], "projection_dim", None)
        if pooled is None or unet.told(pooled) not in (SIZED, SCORED):
            yield (
                f"the UNet reads pooled text and sizes of width {unet.added_width}: the last text "
                f"encoder's pooled text has width {pooled}, each number {unet.time_id_width}"
            )
