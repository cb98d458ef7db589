"""The tensors that tell how a model is used: those refused by name, and those without a meaning.

A mark tells that a model is to be used in another way, so one that is dropped makes wrong images
without an error; hence a tensor that nobody knows is refused too.
"""

import re
from collections.abc import Collection
from typing import NoReturn

from flax_sd.errors import UserError, some
from flax_sd.weights.ldm.parts import UNET, Shapes
from flax_sd.weights.tensor_kinds import describe

_REFUSED = {  # pattern of a name -> what it is a mark of
    r"edm_(mean|std)": "Playground v2.5, whose latents have a mean and deviation of their own",
    r"edm_vpred\..+": "CosXL, which draws by the rule of EDM",
    r".*time_embed(ding)?\.cond_proj\..+": "an LCM, whose UNet reads the guidance scale as well",
    r"(.*\.)?latents_(mean|std)": "a VAE whose latents have a mean and deviation of their own",
    r".*\bscaled_fp8|.*\.(scale_(weight|input)|(weight|input)_scale|comfy_quant)": (
        "numbers of 8 bits with a scale for each tensor"
    ),
    r"(.*\.)?noise_augmentor\..+": "unCLIP, which varies images",
    r"depth_model\..+": "a model that reads depth",
}
_ADAPTER = re.compile(
    r".*[._](lora_(down|up|mid|A|B)|hada_w\d_[ab]|lokr_w\d(_[ab])?|oft_blocks|diff(_b)?)\b.*"
)
# Buffers of the training code, which follow from the noise schedule; and marks that facts read.
_HARMLESS = re.compile(
    r"model_ema\..+|betas|(sqrt_)?(one_minus_|log_one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?|"
    r"posterior_\w+|logvar|lvlb_weights|denoiser\.sigmas|global_step|v_pred|ztsnr|"
    r"(cond_stage_model|conditioner\.embedders\.\d)\.(logit_scale|text_projection(\.weight)?)|"
    r"embedding_manager\..+"
)


def refuse_parts(shapes: Shapes, where: str) -> NoReturn:
    """Raises for a file without a component, and names what it is instead.

    Args:
      shapes: of all tensors in the file.
      where: the file, for messages.

    Raises:
      UserError: always.
    """
    if any(_ADAPTER.fullmatch(name) for name in shapes):
        raise UserError(
            f"{where} is a LoRA, not a model: name the model that it was trained on, and this file "
            "as its LoRA"
        )
    kind = describe(shapes)
    raise UserError(
        f"{where} {f'is {kind}: it ' if kind else ''}holds no Stable Diffusion under its original "
        f"names; a checkpoint in one file has tensors such as {UNET}input_blocks.0.0.weight"
    )


def refuse_marks(unknown: Collection[str], shapes: Shapes, where: str) -> None:
    """Checks for marks of what is not supported, which may be inside of a component too.

    Args:
      unknown: the tensors that no component has.
      shapes: of all tensors in the file.
      where: the file, for messages.

    Raises:
      UserError: one is a mark of what is not supported, or not known.
    """
    for pattern, what in _REFUSED.items():
        if found := sorted(name for name in shapes if re.fullmatch(pattern, name)):
            raise UserError(f"{where} holds {some(found)}, a mark of {what}; that is not supported")
    if left := sorted(name for name in unknown if not _HARMLESS.fullmatch(name)):
        kind = describe(shapes)
        raise UserError(
            f"{where}{f' is {kind}, and' if kind else ''} holds tensors that Stable Diffusion 1.x, "
            f"2.x and SDXL do not have: {some(left)}; name a checkpoint of one of these, and if "
            "it is one, remove the tensors if they are known to have no use"
        )
