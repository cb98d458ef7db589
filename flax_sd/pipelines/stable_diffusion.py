"""StableDiffusion: the components of a checkpoint, and the methods that use them together."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Literal, SupportsFloat, SupportsIndex, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from PIL import Image

from flax_sd import samplers
from flax_sd.diffusion import diffusers_corrections
from flax_sd.errors import UserError
from flax_sd.models.clip import TextStates
from flax_sd.models.layers import Network
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.models.unet_conditions import SCORED, AddedConditions, Conditions
from flax_sd.pipelines.additions import Prompted
from flax_sd.pipelines.base import network
from flax_sd.pipelines.micro_conditions import time_ids
from flax_sd.pipelines.options import Options, check, step_options
from flax_sd.pipelines.outputs import Arrays, Output, check_output, in_form
from flax_sd.pipelines.programs import shared_programs
from flax_sd.pipelines.request import Request, draw_noise, guided, read_request, spread
from flax_sd.pipelines.span import read_span
from flax_sd.pipelines.text_states import PromptStates, encode_halves
from flax_sd.weights.family import PROMPTED, STABLE_DIFFUSION, Family
from flax_sd.weights.model import Model
from flax_sd.weights.model_files import ModelFiles


class StableDiffusion(Prompted):
    """A Stable Diffusion checkpoint: its networks, its tokenizer and its scheduler's config.

    Attributes:
      unet: an `nnx.Module`, (latents [b, h, w, c], timesteps [b], text [b, n, d]) -> [b, h, w, c];
        may be replaced.
      vae: an `nnx.Module`; may be replaced.
      text_encoders: a list: one, but for SDXL.
      programs: the jitted programs, with the number of times each was compiled.
    """

    kinds = PROMPTED
    unet, vae = network("unet"), network("vae")

    def __init__(self, model: Model):
        """Wraps a loaded model; its networks are not copied."""
        super().__init__(model)
        kind = model.files.kind
        self.programs = shared_programs(*(model.networks[name].config for name in kind.networks))

    @classmethod
    def from_parts(
        cls,
        *,
        folder: pathlib.Path,
        unet: Network,
        vae: Network,
        text_encoder: Network,
        tokenizer: Tokenizer,
    ) -> "StableDiffusion":
        """Makes a pipeline from networks in memory; the configs come from `folder`.

        Args:
          folder: a diffusers folder; its weights are not read.
          unet: the UNet.
          vae: the autoencoder.
          text_encoder: the text encoder.
          tokenizer: its tokenizer.

        Raises:
          UserError: the folder lacks a config, or is of SDXL, or the components do not fit each
            other.
        """
        files = ModelFiles(folder)
        files.check_kind([STABLE_DIFFUSION])
        networks = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
        model = Model(files, networks, [tokenizer], files.scheduler_config)
        model.check_fit()
        return cls(model)

    @property
    def family(self) -> Family:
        """The family: "sd1", "sd2" or "sdxl"."""
        return self.model.files.family

    @property
    def stride(self) -> int:
        """Pixels per latent, along each side."""
        return self.model.pixels_per_latent

    def encode_prompt(
        self,
        prompts: str | Sequence[str],
        clip_skip: int | None = None,
        *,
        max_token_length: int = 75,
        prompt_2: str | Sequence[str] | None = None,
    ) -> PromptStates:
        """Returns the text states of prompts.

        Args:
          prompts: one or more; tokens past `max_token_length` are cut off, with a log warning.
          clip_skip: number of the text encoder's last layers to leave out.
          max_token_length: tokens of text to read: 75, or 150 or 225 in chunks of 75.
          prompt_2: what SDXL's second text encoder reads; by default the same.

        Raises:
          UserError: the text encoder has fewer layers, or the length is not one of these.
        """
        check({"prompt_2": prompt_2}, self._told)
        first = [prompts] if isinstance(prompts, str) else list(prompts)
        second = spread("prompt_2", prompt_2, first)
        states = self._encode([first, second], clip_skip or 0, max_token_length)
        return PromptStates(*jax.tree.map(lambda array: np.asarray(array, np.float32), states))

    def _encode(self, prompts: Sequence[list[str]], skip: int, length: int) -> TextStates:
        """Returns the states of prompts; those for each text encoder, of which there may be one."""
        pairs = zip(self.tokenizers, prompts, strict=False)  # diffusers' refiner reads the first
        ids = [self._place(tokenizer.with_length(length)(own)) for tokenizer, own in pairs]
        return self.programs.encode(self.text_encoders, ids, skip, self.model.files.kind.text_rule)

    @overload
    def generate(
        self,
        prompt_or_list: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = "",
        num_inference_steps: int = 50,
        guidance_scale: SupportsFloat = 7.5,
        sampler: str | Mapping[str, object] | None = None,
        seed: SupportsIndex | Sequence[SupportsIndex] = 0,
        latents: ArrayLike | None = None,
        height: int | None = None,
        width: int | None = None,
        output: Arrays = "uint8",
        **options: Unpack[Options],
    ) -> np.ndarray: ...
    @overload
    def generate(
        self,
        prompt_or_list: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = "",
        num_inference_steps: int = 50,
        guidance_scale: SupportsFloat = 7.5,
        sampler: str | Mapping[str, object] | None = None,
        seed: SupportsIndex | Sequence[SupportsIndex] = 0,
        latents: ArrayLike | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        output: Literal["pil"],
        **options: Unpack[Options],
    ) -> list[Image.Image]: ...
    def generate(
        self,
        prompt_or_list: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = "",
        num_inference_steps: int = 50,
        guidance_scale: SupportsFloat = 7.5,
        sampler: str | Mapping[str, object] | None = None,
        seed: SupportsIndex | Sequence[SupportsIndex] = 0,
        latents: ArrayLike | None = None,
        height: int | None = None,
        width: int | None = None,
        output: Output = "uint8",
        **options: Unpack[Options],
    ) -> np.ndarray | list[Image.Image]:
        """Generates an image for each prompt, as diffusers does from the same seed.

        Args:
          prompt_or_list: one prompt, or several for one batch.
          negative_prompt: one, or one for each prompt; without guidance it is ignored. None is "",
            and in SDXL no prompt at all.
          num_inference_steps: number of steps, as for diffusers' `set_timesteps`.
          guidance_scale: 1 and below leave the unconditional half out.
          sampler: None for the checkpoint's own, a name in `flax_sd.samplers.SAMPLERS` for that
            class with the checkpoint's config, or a scheduler config that is used unchanged.
          seed: seed of the first image, from which the next ones count up; or one for each image.
          latents: noise [b, h, w, c] to start from, instead of noise from the seeds; with
            `denoising_start` the latents of another model's `denoising_end`.
          height: in pixels; None for the height that the UNet was trained on. One side may be
            given alone, which diffusers ignores.
          width: in pixels; None for the width that the UNet was trained on.
          output: "uint8" images [b, H, W, 3], "float" images in [0, 1], "latents" [b, h, w, c], or
            "pil", a list of PIL images.
          options: further ones by diffusers' names, which `Options` describes.

        Raises:
          UserError: an argument is not valid, or an image has NaN.
        """
        check_output(output)
        check(options, self._told)
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
        steps = samplers.from_config(config, num_inference_steps, **step_options(options, config))
        span = read_span(options, steps, config, latents=latents is not None)
        x, noise = draw_noise(request, steps, self.unet.config.in_channels, latents, span)
        conditions = self._conditions(request, options, negative_prompt, guidance_scale)
        x = self.programs.sample(
            self.unet,
            steps,
            self._place(x),
            conditions,
            guidance_scale,
            noise,
            options.get("guidance_rescale") or 0.0,
            options.get("callback"),
            span[:2],
        )
        return np.asarray(x) if output == "latents" else in_form(self._decode(x), output)

    def _conditions(
        self, request: Request, options: Options, negative_prompt: object, guidance: SupportsFloat
    ) -> Conditions:
        """Returns what the UNet reads, [b, 2, …] with guidance and [b, 1, …] without."""
        zeros = negative_prompt is None and self.model.files.zeros_for_no_prompt
        if zeros and options.get("negative_prompt_2"):
            raise UserError("negative_prompt_2 is given, and negative_prompt is None: give both")
        with_negative = guided(guidance)
        states = encode_halves(self._encode, request, options, guided=with_negative, zeros=zeros)
        if states.pooled is None:
            return Conditions(states.text)
        pixels = [side * self.model.pixels_per_latent for side in (request.height, request.width)]
        told = time_ids(options, *pixels, guided=with_negative, scored=self._told == SCORED)
        rows = np.broadcast_to(told, (len(request.prompts), *told.shape))
        return Conditions(states.text, AddedConditions(states.pooled, self._place(rows)))

    @property
    def _told(self) -> int:
        """The numbers that the UNet reads beside pooled text; 0 where it reads none."""
        return self.unet.config.told(getattr(self.text_encoders[-1].config, "projection_dim", 0))

    def _decode(self, latents: jax.Array) -> Float[np.ndarray, "b H W 3"]:
        """Decodes latents to images in [0, 1], one by one unless devices divide them.

        On a CPU four images of 512 px need 5 GiB together, one needs 1.25 GiB.
        """
        parts = [latents] if self._batch else [latents[i : i + 1] for i in range(len(latents))]
        decoded = [np.asarray(self.programs.decode(self.vae, part)) for part in parts]
        return np.concatenate(decoded)

    def _place(self, array: ArrayLike) -> jax.Array:
        """Puts an array, with the batch as its first axis, on the networks' devices."""
        if self._batch is None:
            return jnp.asarray(array)
        devices = self._batch.num_devices
        if len(np.asarray(array)) % devices:
            raise UserError(
                f"{np.shape(array)[0]} prompts: should be a multiple of {devices} devices"
            )
        return jax.device_put(jnp.asarray(array), self._batch)
