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
from flax_sd.weights.deferred import Tensor
from flax_sd.weights.destination import MARK, SINGLE, check_name, check_replaceable
from flax_sd.weights.diffusers_folder import save_component, write_json, written_aside
from flax_sd.weights.family import DDPM, PROMPTED, ModelKind
from flax_sd.weights.fill import dtype_name, rounded, state_tensors
from flax_sd.weights.ldm.contents import EMA
from flax_sd.weights.ldm.header import About, check_latents
from flax_sd.weights.ldm.writing import write_single
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
        export: str | None = None,
    ) -> None:
        """Writes a folder for diffusers' `from_pretrained`, or a single file, whole or not at all.

        LoRAs and new tokens inside the networks are left out.

        Args:
          path: a new or empty folder, a name that ends in .safetensors, or a model to replace.
          parts: components whose weights are written, the others are copied unchanged; None for
            all networks.
          dtype: dtype of the written weights; None keeps their own.
          changed: new values in their config.json.
          export: a mark that a later export may replace it.

        Raises:
          UserError: something else is at the path, a number is not finite, or the disk is full.
        """
        parts = self.networks if parts is None else parts
        if path.suffix == SINGLE:
            return self._save_single(path, parts, dtype, _exported(path, export))
        check_name(path)
        files = self.files
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
            written = written_index(files, self.scheduler_config)
            mark = {f"_{MARK}": export} if export else {}
            write_json(aside / "model_index.json", written | mark)

    def _save_single(
        self,
        path: pathlib.Path,
        parts: Mapping[str, nnx.Module | nnx.State],
        dtype: str | None,
        header: Mapping[str, str],
    ) -> None:
        check_replaceable(path)
        components: dict[str, Mapping[str, Tensor]] = {}
        for name in self.files.kind.networks:
            if part := parts.get(name):
                tensors = state_tensors(part)
                components[name] = rounded(tensors, dtype or dtype_name(part), f"{path}: {name}")
            else:
                components[name] = self.files.tensors(name)
        kept = self.files.leftovers
        # The mean of the weights that were loaded is none of these.
        tensors = {k: t for k, t in kept.tensors.items() if not k.startswith(EMA)}
        said = about(self.files, self.scheduler_config, components["unet"])
        write_single(path, said, components, kept._replace(tensors=tensors), header)


def _exported(path: pathlib.Path, export: str | None) -> dict[str, str]:
    """Returns what an export has in its header: the mark, and the file's own name."""
    return {} if export is None else {MARK: export, "modelspec.title": path.stem}


def about(files: ModelFiles, scheduler: JsonObject, unet: Mapping[str, Tensor]) -> About:
    """Returns what a single file of a model says of itself.

    Args:
      files: the model.
      scheduler: its scheduler config, with any changes.
      unet: the UNet's tensors.

    Raises:
      UserError: a single file cannot say how it is used.
    """
    if (place := files.place("vae")).is_dir():  # else it is a single file's own
        check_latents(files.config("vae"), files.family, str(place))
    channels = unet["conv_in.weight"].shape[1]
    return About(files.template, channels, scheduler, files.side, files.title)


def written_index(files: ModelFiles, scheduler: JsonObject) -> JsonObject:
    """Returns a model's index, with null for the components that are not written.

    A mark that the model may be replaced is not passed on: what is made of it may not.

    Args:
      files: the model.
      scheduler: its scheduler config, with any changes.
    """
    index = {key: value for key, value in files.index.items() if key != f"_{MARK}"}
    if name := scheduler.get("_class_name"):
        index["scheduler"] = ["diffusers", name]
    if files.kind == DDPM:
        return index
    index["vae"] = ["diffusers", files.config("vae")["_class_name"]]
    return {**index, **files.kind.unwritten}


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
