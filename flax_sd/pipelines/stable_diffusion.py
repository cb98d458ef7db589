"""StableDiffusion: the parts of a checkpoint together, and what people do with them."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, SupportsFloat, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, Sharding
from jax.typing import ArrayLike

from flax_sd import samplers
from flax_sd.diffusion import diffusers_corrections
from flax_sd.embeddings.attached import AttachedTokens
from flax_sd.embeddings.files import read as read_embedding
from flax_sd.errors import UserError
from flax_sd.files.paths import named
from flax_sd.lora.attached import AttachedLoRAs
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.pipelines.programs import shared_programs
from flax_sd.pipelines.request import OUTPUTS, draw_noise, guided, read_request, to_uint8
from flax_sd.system import sharding
from flax_sd.weights.family import STABLE_DIFFUSION, Family
from flax_sd.weights.fill import as_dtype
from flax_sd.weights.model import Model
from flax_sd.weights.model_files import ModelFiles


class PromptStates(NamedTuple):
    """What the text encoders say of prompts.

    Attributes:
      text: [b, 77, d] float32; 152 or 227 of a `max_token_length` of 150 or 225.
      pooled: [b, d], which only SDXL has.
    """

    text: np.ndarray
    pooled: np.ndarray | None = None


def _network(name: str, doc: str) -> Any:
    """Returns a property: a component of the model."""
    return property(
        lambda self: self.model.networks[name],
        lambda self, network: self.model.networks.update({name: network}),
        doc=doc,
    )


class StableDiffusion:
    """A Stable Diffusion checkpoint: its networks, its tokenizer and its scheduler's config.

    Attributes:
      model: all that was loaded, and where it came from.
      programs: what draws, and how often it was compiled.
    """

    def __init__(self, model: Model):
        """Draws with a loaded model, whose networks stay where they are."""
        self.model = model
        self.programs = shared_programs(
            *(model.networks[name].config for name in STABLE_DIFFUSION.networks)
        )
        self._loras, self._tokens = AttachedLoRAs(), AttachedTokens(model.tokenizer)
        self._batch: Sharding | None = None

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        dtype: str = "float32",
        *,
        revision: str | None = None,
        variant: str | None = None,
    ) -> "StableDiffusion":
        """Loads a diffusers folder, a hub id or "bundled:base".

        Args:
          source: where the model lies.
          dtype: of the weights and the arithmetic: float32, bfloat16 or float16.
          revision: branch, tag or commit of a hub id.
          variant: weight files to take, as "fp16" for `model.fp16.safetensors`.

        Raises:
          UserError: there is no such model, it is damaged, of a kind that is not supported, or its
            parts do not fit; every misfit is named.
        """
        as_dtype(dtype)
        return cls(Model.load(ModelFiles.find(source, revision, variant), dtype))

    @classmethod
    def from_parts(
        cls,
        *,
        folder: pathlib.Path,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Tokenizer,
    ) -> "StableDiffusion":
        """Makes a pipeline of networks that are in memory; the configs come from `folder`.

        Raises:
          UserError: a config is missing from the folder or the parts do not fit each other.
        """
        files = ModelFiles(folder)
        networks = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
        model = Model(files, networks, [tokenizer], files.scheduler_config)
        model.check_fit()
        return cls(model)

    @property
    def family(self) -> Family:
        """Returns "sd1", "sd2" or "sdxl"."""
        return self.model.files.family

    @property
    def source(self) -> str:
        """What `load` was asked for."""
        return self.model.files.source

    unet = _network("unet", "The UNet; another one may be put in its place.")
    vae = _network("vae", "The autoencoder; another one may be put in its place.")

    @property
    def text_encoders(self) -> tuple[Any, ...]:
        """One, but for SDXL."""
        return (self.model.networks["text_encoder"],)

    @property
    def tokenizers(self) -> list[Tokenizer]:
        """Those of the text encoders."""
        return self.model.tokenizers

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """The raw scheduler_config.json; another one may be put in its place."""
        return self.model.scheduler_config

    @scheduler_config.setter
    def scheduler_config(self, config: dict[str, Any]) -> None:
        self.model.scheduler_config = config

    @property
    def folder(self) -> pathlib.Path:
        """Where its files lie."""
        return self.model.files.folder

    @property
    def stride(self) -> int:
        """Pixels a latent, along each side."""
        return self.model.pixels_per_latent

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The raw config.json of each network, by component."""
        return self.model.files.configs

    def encode_prompt(
        self,
        prompts: str | Sequence[str],
        clip_skip: int | None = None,
        *,
        max_token_length: int = 75,
    ) -> PromptStates:
        """The text states of prompts.

        Args:
          prompts: one or more; what is past `max_token_length` is cut off, with a log warning.
          clip_skip: how many of the text encoder's last layers to leave out.
          max_token_length: tokens of text that are read: 75, or 150 or 225 in chunks of 75.

        Raises:
          UserError: the text encoder has not as many layers, or the length is another.
        """
        states = self._encode(prompts, clip_skip or 0, max_token_length)
        return PromptStates(np.asarray(states, np.float32))

    def _encode(self, prompts: str | Sequence[str], skip: int, length: int) -> jax.Array:
        ids = self._place(self.tokenizers[0].with_length(length)(prompts))
        return self.programs.encode(self.text_encoders[0], ids, skip)

    def generate(
        self,
        prompt_or_list: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = "",
        num_inference_steps: int = 50,
        guidance_scale: SupportsFloat = 7.5,
        sampler: str | Mapping[str, Any] | None = None,
        seed: SupportsIndex | Sequence[SupportsIndex] = 0,
        latents: ArrayLike | None = None,
        height: int | None = None,
        width: int | None = None,
        output: str = "uint8",
        *,
        clip_skip: int | None = None,
        max_token_length: int = 75,
        step_options: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Draws a picture for each prompt, the one that diffusers draws from the same seed.

        Args:
          prompt_or_list: one prompt, or several that are drawn together.
          negative_prompt: one, or one for each prompt; without guidance it is ignored. None is "".
          num_inference_steps: as diffusers' `set_timesteps`.
          guidance_scale: 1 and below leave the unconditional half out.
          sampler: None for the checkpoint's own, a name (`flax_sd.samplers.SAMPLERS`) for the
            checkpoint's config made one of that class, or a scheduler config taken as it is.
          seed: of the first picture, those after it count up; or one for each.
          latents: noise [b, h, w, c] to begin with, in place of the seeds'.
          height: pixels; unset takes what the UNet was trained on. One side may be given alone,
            which diffusers ignores.
          width: as height.
          output: "uint8" pictures [b, H, W, 3], "float" ones in [0, 1], or "latents" [b, h, w, c].
          clip_skip: layers to leave out for the prompts; not for the negative ones, as diffusers.
          max_token_length: tokens that are read of each prompt: 75 as in diffusers, or in chunks
            150 or 225, which all prompts then have, as in training with `data.max_token_length`.
          step_options: of the sampler's steps, such as {"eta": 1.0}.

        Raises:
          UserError: arguments that cannot be, or a picture that overflowed.
        """
        if output not in OUTPUTS:
            raise UserError(f"output {output!r} is not one of {', '.join(OUTPUTS)}")
        request = read_request(
            prompt_or_list,
            negative_prompt,
            seed,
            (height, width),
            latents,
            default_size=diffusers_corrections.sample_size(self.model.files.config("unet")),
            channels=self.unet.config.in_channels,
            stride=self.model.pixels_per_latent,
        )
        config = samplers.config_of(sampler, self.scheduler_config)
        steps = samplers.from_config(config, num_inference_steps, **(step_options or {}))
        x, noise = draw_noise(request, steps, self.unet.config.in_channels, latents)
        prompts = [self._encode(request.prompts, clip_skip or 0, max_token_length)]
        if guided(guidance_scale):
            prompts.insert(0, self._encode(request.negatives, 0, max_token_length))
        text = jnp.stack(prompts, axis=1)
        x = self.programs.sample(self.unet, steps, self._place(x), text, guidance_scale, noise)
        if output == "latents":
            return np.asarray(x)
        pictures = self._decode(x)
        return pictures if output == "float" else to_uint8(pictures)

    def _decode(self, latents: jax.Array) -> np.ndarray:
        """Pictures in [0, 1], one by one unless devices divide them.

        On a CPU four of 512 px take 5 GiB together, one takes 1.25.
        """
        parts = [latents] if self._batch else [latents[i : i + 1] for i in range(len(latents))]
        return np.concatenate([np.asarray(self.programs.decode(self.vae, part)) for part in parts])

    def distribute(self, mesh: Mesh) -> None:
        """Copies the networks to every device of a mesh; pictures of a call are divided among them.

        From then on the number of prompts of a call must be a multiple of the number of devices.
        """
        if mesh.size > 1:
            for network in self.model.networks.values():
                nnx.update(network, sharding.replicate(nnx.state(network), mesh))
            self._batch = NamedSharding(mesh, sharding.BATCH)

    def _place(self, array: ArrayLike) -> jax.Array:
        """An array with the batch as its first axis, where the networks are."""
        if self._batch is None:
            return jnp.asarray(array)
        devices = self._batch.num_devices
        if len(np.asarray(array)) % devices:
            raise UserError(
                f"{np.shape(array)[0]} prompts: should be a multiple of {devices} devices"
            )
        return jax.device_put(jnp.asarray(array), self._batch)

    def add_lora(
        self, path: str | os.PathLike[str], scale: SupportsFloat = 1.0, name: str | None = None
    ) -> str:
        """Puts a LoRA beside the weights; returns the name to remove it by.

        Args:
          path: a file of kohya, PEFT or diffusers, or a folder that holds one.
          scale: strength; another one, or another LoRA of the same ranks, does not recompile.
          name: unset takes the file's, with a number behind it if that is taken.

        Raises:
          UserError: it is no LoRA, is one of another model, or the name that was given is taken.
        """
        return self._loras.add(self.model.networks, path, float(scale), name)

    def remove_lora(self, name: str) -> None:
        """Takes a LoRA out; what is drawn then is what was drawn before it came.

        Raises:
          UserError: there is none of that name.
        """
        self._loras.remove(self.model.networks, name)

    def add_embedding(self, path: str | os.PathLike[str], token: str | None = None) -> str:
        """Teaches prompts a new token (textual inversion); returns what it is called there.

        Args:
          path: a safetensors file of diffusers, sd-scripts, A1111 or ComfyUI, or a folder that
            holds `learned_embeds.safetensors`.
          token: unset takes the file's own, or its name.

        Raises:
          UserError: it is no embedding, is one of another model, or the vocabulary has the token.
        """
        text_encoder = self.text_encoders[0]
        found = read_embedding(path, text_encoder.config.hidden_size, token)
        self.tokenizers[0] = self._tokens.add(text_encoder, *found)
        return found.token

    def remove_embedding(self, token: str) -> None:
        """Takes a token out; prompts are read as before it came.

        Raises:
          UserError: there is none of that name.
        """
        self.tokenizers[0] = self._tokens.remove(self.text_encoders[0], token)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a diffusers folder, whole or not at all; LoRAs and new tokens stay out of it.

        Raises:
          UserError: something else is in the place, or the disk is full.
        """
        self.model.save(named(path))
