"""Small random Stable Diffusions of diffusers, and their folders."""

import contextlib
import pathlib
import warnings
from typing import Any, Literal

import diffusers
import numpy as np
import torch
import transformers

import flax_sd
from flax_sd.lora.adapter import Adapter
from flax_sd.lora.formats import peft
from tests.parity import randomise

PROMPTS, NEGATIVES, SEEDS = ["a cat", "two DOGS, one bone!"], ["bad", "worse hands"], [3, 4]
SIZE = {"height": 24, "width": 16}  # of which diffusers wants multiples of 8; h != w
STEPS = {"num_inference_steps": 4, **SIZE}
TOKENIZER = pathlib.Path(flax_sd.__file__).parent / "bundled" / "base" / "tokenizer"
NOISE = {  # of all real checkpoints
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def build(family: Literal["sd1", "sd2"]) -> diffusers.StableDiffusionPipeline:
    """What tells the families apart: head counts, linear projections, GELU, the scheduler."""
    sd2 = family == "sd2"
    unet = diffusers.UNet2DConditionModel(
        sample_size=6,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=(2,) if sd2 else 2,
        use_linear_projection=sd2,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        scaling_factor=0.3,
    )
    text = transformers.CLIPTextConfig(
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=3,
        hidden_act="gelu" if sd2 else "quick_gelu",
        eos_token_id=2,
    )
    scheduler = (
        diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False, **NOISE)
        if sd2
        else diffusers.PNDMScheduler(skip_prk_steps=True, **NOISE)
    )
    return diffusers.StableDiffusionPipeline(
        vae=randomise(vae, 1),
        text_encoder=randomise(transformers.CLIPTextModel(text), 2),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(TOKENIZER),
        unet=randomise(unet, 3),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_xl(
    prediction_type: str = "epsilon", scheduler: str = "EulerDiscreteScheduler", **changes: object
) -> diffusers.StableDiffusionXLPipeline:
    """SDXL: two text encoders of other widths, depths of each block, sizes and pooled text."""
    unet = diffusers.UNet2DConditionModel(
        sample_size=6,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        norm_num_groups=4,
        cross_attention_dim=12 + 10,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=6,
        projection_class_embeddings_input_dim=6 * 6 + 9,
    )
    vae = build("sd1").vae
    vae.register_to_config(force_upcast=True, scaling_factor=0.13)
    shape = {"num_hidden_layers": 2, "eos_token_id": 2, "intermediate_size": 20}
    first = transformers.CLIPTextConfig(hidden_size=12, num_attention_heads=3, **shape)
    second = transformers.CLIPTextConfig(
        hidden_size=10, num_attention_heads=2, hidden_act="gelu", projection_dim=9, **shape
    )
    noise = {**NOISE, "prediction_type": prediction_type, **changes}
    if scheduler == "EulerDiscreteScheduler":
        noise.pop("set_alpha_to_one")
    return diffusers.StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=randomise(transformers.CLIPTextModel(first), 2),
        text_encoder_2=randomise(transformers.CLIPTextModelWithProjection(second), 4),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(TOKENIZER),
        tokenizer_2=transformers.CLIPTokenizer.from_pretrained(TOKENIZER, pad_token="!"),
        unet=randomise(unet, 3),
        scheduler=getattr(diffusers, scheduler)(**noise),
        add_watermarker=False,
    )


def build_refiner(width: int = 10) -> diffusers.StableDiffusionXLImg2ImgPipeline:
    """SDXL's refiner: the second text encoder alone, three blocks, a score in place of a size.

    Its text encoder has another width than SDXL's in a vocabulary of few words.
    """
    unet = diffusers.UNet2DConditionModel(
        sample_size=6,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=2,
        norm_num_groups=4,
        cross_attention_dim=width,
        attention_head_dim=(2, 4, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=6,
        projection_class_embeddings_input_dim=5 * 6 + 9,
    )
    base = build_xl()
    if width != base.text_encoder_2.config.hidden_size:
        other = transformers.CLIPTextConfig(
            **base.text_encoder_2.config.to_dict() | {"hidden_size": width, "vocab_size": 60}
        )
        base.text_encoder_2 = randomise(transformers.CLIPTextModelWithProjection(other), 4)
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=base.vae,
        text_encoder=None,
        text_encoder_2=base.text_encoder_2,
        tokenizer=None,
        tokenizer_2=base.tokenizer_2,
        unet=randomise(unet, 7),
        scheduler=base.scheduler,
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def save(family: Literal["sd1", "sd2"], folder: pathlib.Path, **options: object) -> None:
    """As `save_pretrained`, with the class's options."""
    build(family).save_pretrained(folder, **options)


def load(folder: pathlib.Path) -> Any:
    """As `from_pretrained`, without progress bars."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextlib.contextmanager
def scheduler(pipeline, name, **changes):
    """Another scheduler for a while: that class's own `from_config`."""
    own = pipeline.scheduler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2 about diffusers' Euler schedulers
        pipeline.scheduler = getattr(diffusers, name).from_config({**own.config, **changes})
        yield pipeline
    pipeline.scheduler = own


def draw(pipeline, prompts, negatives, seeds, output_type="latent", **options):
    """diffusers' images, or latents with the channels last."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipeline(
        prompts,
        negative_prompt=negatives,
        generator=generators,
        output_type=output_type,
        **options,
    ).images
    return images.permute(0, 2, 3, 1).numpy() if output_type == "latent" else images


def write_lora(
    path: pathlib.Path, layers: dict[str, tuple[np.ndarray, np.ndarray]]
) -> pathlib.Path:
    """Writes a LoRA of the UNet: dotted path -> (down, up)."""
    adapters = {
        name: Adapter(down.astype(np.float32), up.astype(np.float32), float(len(down)))
        for name, (down, up) in layers.items()
    }
    peft.write(path, {"unet": adapters})
    return path
