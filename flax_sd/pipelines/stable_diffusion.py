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
from flax_sd.models.clip import CLIPTextModel
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.models.unet import UNet2DConditionModel
from flax_sd.models.vae import AutoencoderKL
from flax_sd.pipelines.programs import shared_programs
from flax_sd.pipelines.request import OUTPUTS, draw_noise, guided, read_request, to_uint8
from flax_sd.system import sharding
from flax_sd.weights import hub
from flax_sd.weights import networks as components
from flax_sd.weights.diffusers_folder import read_json
from flax_sd.weights.family import Family, family_of
from flax_sd.weights.fill import as_dtype
from flax_sd.weights.save import save_model

NETWORKS = ("unet", "vae", "text_encoder")


class PromptStates(NamedTuple):
    """What the text encoders say of prompts.

    Attributes:
      text: [b, 77, d] float32; 152 or 227 of a `max_token_length` of 150 or 225.
      pooled: [b, d], which only SDXL has.
    """

    text: np.ndarray
    pooled: np.ndarray | None = None


class StableDiffusion:
    """A Stable Diffusion checkpoint: its networks, its tokenizer and its scheduler's config.

    Attributes:
      family: "sd1", "sd2" or "sdxl".
      unet, vae: nnx modules.
      text_encoders, tokenizers: lists; one of each, but for SDXL.
      scheduler_config: the raw scheduler_config.json.
      configs: component -> its raw config.json.
      folder: where its files lie.
      source: what `load` was asked for.
      programs: what draws, and how often it was compiled.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        networks: Mapping[str, nnx.Module],
        tokenizer: Tokenizer,
        *,
        dtype: str,
        source: str,
    ):
        """Puts loaded parts together; the configs come from `folder`.

        Raises:
          UserError: a config is missing or the parts do not fit each other.
        """
        self.folder, self.source = folder, source
        self.configs = {name: components.read_component_config(folder, name) for name in NETWORKS}
        self.scheduler_config = components.read_scheduler_config(folder)
        self.family: Family = family_of(
            self.configs["text_encoder"],
            self.configs["unet"],
            second_text_encoder=(folder / "text_encoder_2").is_dir(),
        )
        self.unet: Any = networks["unet"]
        self.vae: Any = networks["vae"]
        self.text_encoders: list[Any] = [networks["text_encoder"]]
        self.tokenizers = [tokenizer]
        parts = (self.unet, self.vae, *self.text_encoders)
        self.programs = shared_programs(*(part.config for part in parts))
        self._dtype = dtype
        self._loras, self._tokens = AttachedLoRAs(), AttachedTokens(tokenizer)
        self._batch: Sharding | None = None
        self._check()

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
        folder = hub.resolve(source, revision, variant)
        components.check_kind(folder)
        networks = {
            name: components.load_network(folder, name, dtype, variant) for name in NETWORKS
        }
        tokenizer = Tokenizer.load(folder / "tokenizer")
        return cls(folder, networks, tokenizer, dtype=dtype, source=os.fspath(source))

    @classmethod
    def from_parts(
        cls,
        *,
        folder: pathlib.Path,
        unet: UNet2DConditionModel,
        vae: components.VAE,
        text_encoder: CLIPTextModel,
        tokenizer: Tokenizer,
    ) -> "StableDiffusion":
        """A pipeline over networks that are in memory already, such as those in training.

        Raises:
          UserError: a config is missing from the folder or the parts do not fit each other.
        """
        networks = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
        dtype = str(nnx.to_flat_state(nnx.state(unet, nnx.Param))[0][1].dtype)
        return cls(folder, networks, tokenizer, dtype=dtype, source=str(folder))

    def _check(self) -> None:
        unet, vae, text = self.unet.config, self.vae.config, self.text_encoders[0].config
        problems = []
        if (reads := unet.in_channels) != vae.latent_channels:
            problems.append(
                f"the UNet reads {reads} channels, the VAE makes {vae.latent_channels} "
                "(a UNet that reads 9 is for inpainting, which is not supported)"
            )
        if (reads := unet.cross_attention_dim) != text.hidden_size:
            problems.append(
                f"the UNet reads text {reads} wide, the text encoder's is {text.hidden_size}"
            )
        if problems:
            raise UserError(f"{self.folder}: its parts do not fit: {'; '.join(problems)}")

    @property
    def stride(self) -> int:
        """Pixels a latent, along each side."""
        config, is_kl = self.vae.config, isinstance(self.vae, AutoencoderKL)
        widths = config.block_out_channels if is_kl else config.decoder_block_out_channels
        return 2 ** (len(widths) - 1)

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
            default_size=diffusers_corrections.sample_size(self.configs["unet"]),
            channels=self.unet.config.in_channels,
            stride=self.stride,
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
            for network in self._networks.values():
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
        return self._loras.add(self._networks, path, float(scale), name)

    def remove_lora(self, name: str) -> None:
        """Takes a LoRA out; what is drawn then is what was drawn before it came.

        Raises:
          UserError: there is none of that name.
        """
        self._loras.remove(self._networks, name)

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
        save_model(
            named(path),
            self._networks,
            self.tokenizers[0],
            index=read_json(self.folder / "model_index.json"),
            configs=self.configs,
            scheduler_config=self.scheduler_config,
            dtype=self._dtype,
        )

    @property
    def _networks(self) -> dict[str, Any]:
        return {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoders[0]}
