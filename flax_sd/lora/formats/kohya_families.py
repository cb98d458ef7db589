"""What differs between the families of models in kohya's LoRA files: names and header.

sd-scripts has diffusers' names for the UNet of Stable Diffusion 1.x and 2.x, and the original (LDM)
ones for that of SDXL. ComfyUI reads both of SDXL; A1111 does not know diffusers' names of the
embeddings of size and crop and of one convolution, and diffusers 0.42.1 mixes up the former. So the
original names are the ones that every program reads.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flax_sd.lora.formats.format import LayerRef
from flax_sd.lora.formats.ldm_names import unet_renaming
from flax_sd.weights.family import Family
from flax_sd.weights.ldm.renaming import Renaming


class Naming(NamedTuple):
    """The names that a file is written with.

    Attributes:
      text_encoder: prefix of the (first) text encoder.
      unet: the original names of the UNet's layers; None for diffusers'.
    """

    text_encoder: str = "lora_te_"
    unet: Renaming | None = None

    def name(self, layer: LayerRef) -> str:
        """Returns the name of a layer."""
        component, path = layer
        if component == "unet":
            original = self.unet.to_ldm(path) if self.unet else None
            return "lora_unet_" + (original or path).replace(".", "_")
        prefix = self.text_encoder if component == "text_encoder" else "lora_te2_"
        return prefix + path.replace(".", "_")


DIFFUSERS_NAMING = Naming()


class _Said(NamedTuple):
    """A header's `ss_base_model_version`, and ModelSpec's architecture and pixels."""

    version: str
    architecture: str
    side: int


class _Row(NamedTuple):
    """A family: what a header says, by what the model predicts, and whose names the file has."""

    epsilon: _Said
    v: _Said
    implementation: str = "diffusers"
    text_encoder: str = "lora_te_"
    original: bool = False


_SDXL = _Said("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", 1024)
_FAMILIES: Mapping[Family, _Row] = {  # as sd-scripts' library/sai_model_spec.py @10bfcb9a
    "sd1": _Row(
        _Said("sd_v1", "stable-diffusion-v1/lora", 512),
        _Said("sd_v1_v", "stable-diffusion-v1/lora", 512),
    ),
    "sd2": _Row(
        _Said("sd_v2", "stable-diffusion-v2-512/lora", 512),
        _Said("sd_v2_v", "stable-diffusion-v2-768-v/lora", 768),
    ),
    "sdxl": _Row(
        _SDXL,
        _SDXL,
        "https://github.com/Stability-AI/generative-models",
        text_encoder="lora_te1_",
        original=True,
    ),
}


def naming(family: Family, unet: Iterable[str]) -> Naming:
    """Returns the names of a family's files.

    Args:
      unet: the dotted paths of all layers of the model's UNet.
    """
    row = _FAMILIES[family]
    return Naming(row.text_encoder, unet_renaming(unet) if row.original else None)


def metadata(
    family: Family, scheduler: Mapping[str, object], side: int | None = None
) -> dict[str, str]:
    """Returns the header entries by which user interfaces sort LoRA files by their base model.

    A1111 hides those of SDXL without `ss_base_model_version`. sd-scripts tells v-prediction of SDXL
    by `modelspec.prediction_type` alone.

    Args:
      scheduler: the model's scheduler config, of which prediction_type and rescale_betas_zero_snr
        are read.
      side: pixels of the images that it is trained on; None for the family's.
    """
    row = _FAMILIES[family]
    v_prediction = scheduler.get("prediction_type") == "v_prediction"
    said = row.v if v_prediction else row.epsilon
    side = side or said.side
    return {
        "ss_base_model_version": said.version,
        "ss_v2": str(family == "sd2"),
        "ss_zero_terminal_snr": str(bool(scheduler.get("rescale_betas_zero_snr"))),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": said.architecture,
        "modelspec.implementation": row.implementation,
        "modelspec.prediction_type": "v" if v_prediction else "epsilon",
        "modelspec.resolution": f"{side}x{side}",
    }
