"""What is added to a loaded model and taken away again: LoRAs and new tokens."""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, SupportsFloat

from flax_sd.embeddings.attached import AttachedTokens
from flax_sd.embeddings.bundled import read_bundled
from flax_sd.embeddings.files import read as read_embedding
from flax_sd.errors import UserError
from flax_sd.lora.attached import AttachedLoRAs
from flax_sd.lora.formats.read import locate
from flax_sd.models.layers import Network
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.pipelines.base import Pipeline
from flax_sd.weights.model import Model
from flax_sd.weights.safetensors import TensorFile


class Prompted(Pipeline):
    """A loaded model with text encoders, to which LoRAs and new tokens can be added.

    Attributes:
      text_encoders: one, or two of SDXL; may be replaced.
    """

    def __init__(self, model: Model):
        """Wraps a loaded model; its networks are not copied."""
        super().__init__(model)
        names = model.files.kind.text_encoders
        self.text_encoders: list[Any] = [model.networks[name] for name in names]
        self._loras, self._bundled = AttachedLoRAs(), dict[str, list[str]]()
        self._tokens = AttachedTokens(dict(zip(names, model.tokenizers, strict=True)))

    @property
    def tokenizers(self) -> list[Tokenizer]:
        """The tokenizers of the text encoders."""
        return self.model.tokenizers

    @property
    def _encoders(self) -> dict[str, Any]:
        """The text encoders by component; one may have been replaced in its list."""
        return dict(zip(self.model.files.kind.text_encoders, self.text_encoders, strict=True))

    @property
    def _widths(self) -> dict[str, int]:
        return {name: own.config.hidden_size for name, own in self._encoders.items()}

    @property
    def _networks(self) -> Mapping[str, Network]:
        """All networks by component."""
        return {**self.model.networks, **self._encoders}

    def add_lora(
        self, path: str | os.PathLike[str], scale: SupportsFloat = 1.0, name: str | None = None
    ) -> str:
        """Adds a LoRA to the networks; returns the name to remove it by.

        Embeddings that its file holds besides become tokens for prompts, by the names that they
        have there.

        Args:
          path: a file of kohya, PEFT or diffusers, or a folder that holds one.
          scale: strength; a new scale, or another LoRA of the same ranks, does not recompile.
          name: None for the name of the file, with a number added if it is taken.

        Raises:
          UserError: it is not a LoRA, belongs to another model, or the given name is taken.
        """
        bundled = read_bundled(TensorFile(locate(path)), self._widths)
        self.tokenizers[:] = self._tokens.add(self._encoders, *bundled)
        tokens = [embedding.token for embedding in bundled]
        try:
            name = self._loras.add(self._networks, path, float(scale), name)
        except UserError:
            self.tokenizers[:] = self._tokens.remove(self._encoders, *tokens)
            raise
        self._bundled[name] = tokens
        return name

    @property
    def loras(self) -> Mapping[str, float]:
        """The scale of each LoRA by its name, in the order in which they were added."""
        return MappingProxyType(self._loras.scales)

    def set_lora_scale(self, name: str, scale: SupportsFloat) -> None:
        """Changes the strength of a LoRA that was added.

        Nothing is read again. At 0 the networks are those without it, which is another program.

        Args:
          name: as `add_lora` returned it, a key of `loras`.
          scale: the new strength, in place of that of `add_lora`.

        Raises:
          UserError: there is no LoRA of that name, or the scale is not a number.
        """
        self._loras.set_scale(self._networks, name, float(scale))

    def remove_lora(self, name: str) -> None:
        """Removes a LoRA; images are then the same as before it was added.

        Args:
          name: the name that `add_lora` returned.

        Raises:
          UserError: there is no LoRA of that name.
        """
        self._loras.remove(self._networks, name)
        left = [token for token in self._bundled.pop(name) if token in self._tokens.names]
        self.tokenizers[:] = self._tokens.remove(self._encoders, *left)

    def add_embedding(self, path: str | os.PathLike[str], token: str | None = None) -> str:
        """Adds a token for prompts (textual inversion); returns its name.

        Args:
          path: a safetensors file of diffusers, sd-scripts, A1111 or ComfyUI, or a folder that
            holds `learned_embeds.safetensors`.
          token: None for the token in the file, or else the name of the file.

        Raises:
          UserError: it is not an embedding, belongs to another model, or the vocabulary already
            has the token.
        """
        found = read_embedding(path, self._widths, token)
        self.tokenizers[:] = self._tokens.add(self._encoders, found)
        return found.token

    def remove_embedding(self, token: str) -> None:
        """Removes a token; prompts are then read as before it was added.

        Args:
          token: the token that `add_embedding` returned.

        Raises:
          UserError: there is no such token.
        """
        self.tokenizers[:] = self._tokens.remove(self._encoders, token)
