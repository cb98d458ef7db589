"""The networks that each train.mode loads and trains, and what it reads: one row a mode."""

from typing import Literal, NamedTuple

ModeName = Literal["lora", "textual_inversion", "full", "vae", "ddpm"]


class Mode(NamedTuple):
    """The facts of a mode that other code depends on.

    Attributes:
      components: networks that it loads; text_encoder stands for all of the model.
      fully_trained: those of them all of whose weights it trains.
      denoises: it trains on the loss of a denoising network.
      prompted: that network reads text, and so latents, a tokenizer and a text encoder are there.
      captioned: the images have captions, and the model is a StableDiffusionPipeline; else a
        DDPMPipeline.
      adapters: it trains a LoRA.
      new_tokens: it may train tokens.names.
      text_encoder: it may train text encoders, by train.text_encoder and text_encoder_2.
    """

    components: tuple[str, ...] = ("vae", "text_encoder", "unet")
    fully_trained: tuple[str, ...] = ()
    denoises: bool = True
    prompted: bool = True
    captioned: bool = True
    adapters: bool = False
    new_tokens: bool = False
    text_encoder: bool = False

    @property
    def unconditional(self) -> bool:
        """The trained network generates images without prompts."""
        return self.denoises and not self.prompted


MODES: dict[ModeName, Mode] = {
    "lora": Mode(adapters=True, new_tokens=True, text_encoder=True),
    "textual_inversion": Mode(new_tokens=True),
    "full": Mode(fully_trained=("unet",), text_encoder=True),
    "vae": Mode(components=("vae",), fully_trained=("vae",), denoises=False, prompted=False),
    "ddpm": Mode(components=("unet",), fully_trained=("unet",), prompted=False, captioned=False),
}


class Needs(NamedTuple):
    """Marks an option, or a whole section, that has a meaning in some modes only.

    Attributes:
      fact: the name of what has to be true of the mode.
    """

    fact: str

    def is_met(self, mode: Mode) -> bool:
        """Tells whether the option has a meaning in the mode."""
        return bool(getattr(mode, self.fact))


DENOISING, PROMPTS, CAPTIONS = Needs("denoises"), Needs("prompted"), Needs("captioned")
ADAPTERS, NEW_TOKENS, TEXT_ENCODER = Needs("adapters"), Needs("new_tokens"), Needs("text_encoder")
UNCONDITIONAL = Needs("unconditional")
