"""Small random pipelines of diffusers, with blocks that attend and that do not, in single files."""

import diffusers
import transformers

from flax_sd.weights import safetensors
from tests.parity import numpy_state, randomise
from tests.tiny import NOISE, TOKENIZER
from tests.weights.ldm.public import to_ldm

WIDTHS = {"text_encoder": 12, "text_encoder_2": 20}


def unet(family, **changes):
    """Two blocks, one of which attends, with the family's projections and conditioning."""
    xl = family == "sdxl"
    options = {
        "block_out_channels": (8, 16),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")
        if xl
        else ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")
        if xl
        else ("UpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 2 if family == "sd1" else (2, 4),
        "use_linear_projection": family != "sd1",
        "cross_attention_dim": sum(WIDTHS.values()) if xl else WIDTHS["text_encoder"],
        "sample_size": 6,
    }
    if xl:
        options |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 6,
            "projection_class_embeddings_input_dim": 20 + 6 * 6,
            "transformer_layers_per_block": (1, 2),
        }
    return randomise(diffusers.UNet2DConditionModel(**(options | changes)), 3)


def vae(family="sd1"):
    model = diffusers.AutoencoderKL(
        block_out_channels=(4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=2,
        norm_num_groups=2,
        scaling_factor=0.13025 if "sdxl" in family else 0.18215,
    )
    return randomise(model, 1)


def text_encoder(family, component="text_encoder"):
    second = component == "text_encoder_2"
    config = transformers.CLIPTextConfig(
        hidden_size=WIDTHS[component],
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_act="gelu" if second or family == "sd2" else "quick_gelu",
        projection_dim=WIDTHS[component],
        eos_token_id=2,
        vocab_size=49408,
    )
    cls = transformers.CLIPTextModelWithProjection if second else transformers.CLIPTextModel
    return randomise(cls(config), 5 if second else 2)


def build(family):
    tokenizer = transformers.CLIPTokenizer.from_pretrained(TOKENIZER)
    parts = {
        "vae": vae(family),
        "text_encoder": text_encoder(family),
        "tokenizer": tokenizer,
        "unet": unet(family),
        "scheduler": diffusers.DDIMScheduler(clip_sample=False, **NOISE),
    }
    if family == "sdxl":
        second = {"text_encoder_2": text_encoder(family, "text_encoder_2")}
        return diffusers.StableDiffusionXLPipeline(**parts, **second, tokenizer_2=tokenizer)
    nothing = {"safety_checker": None, "feature_extractor": None}
    return diffusers.StableDiffusionPipeline(**parts, **nothing, requires_safety_checker=False)


def states(pipeline):
    """Every component's tensors, by the names of the hub's files."""
    found = {}
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if module := getattr(pipeline, component, None):
            state = numpy_state(module)
            if component.startswith("text"):
                state = {
                    key if key.startswith("text_") else f"text_model.{key}": value
                    for key, value in state.items()
                }
            found[component] = state
    return found


def write_single(pipeline, family, path, **further):
    """Writes a single file, with further tensors."""
    tensors = dict(further)
    for component, state in states(pipeline).items():
        tensors |= to_ldm(component, family, state)
    safetensors.write(path, tensors)
