"""What a new single file says of itself: ModelSpec's metadata, and the marks of its tensors.

ModelSpec 1.0.1 (github.com/Stability-AI/ModelSpec) has the metadata's names; ComfyUI reads
`modelspec.predict_key` and, of SDXL, the empty tensors `v_pred` and `ztsnr`.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from flax_sd.errors import UserError
from flax_sd.files.json_values import JsonObject
from flax_sd.weights.destination import MARK
from flax_sd.weights.family import VAE_SCALES, Family
from flax_sd.weights.ldm.parts import Template

logger = logging.getLogger("flax_sd")
OWN_PREDICTION = "flax_sd.prediction_type"  # of predictions that no other mark has a word for
V_PRED, ZTSNR = MARKS = "v_pred", "ztsnr"
_NAMES = {  # of a kind of model and the channels that its UNet reads
    ("sd1", 4): "stable-diffusion-v1",
    ("sd1", 9): "stable-diffusion-v1-inpainting",
    ("sd2", 4): "stable-diffusion-v2-512",
    ("sd2", 9): "stable-diffusion-v2-inpainting",
    ("sdxl", 4): "stable-diffusion-xl-v1-base",
    ("sdxl", 8): "stable-diffusion-xl-v1-edit",
    ("sdxl_refiner", 4): "stable-diffusion-xl-v1-refiner",
}
_V_NAMES = {"stable-diffusion-v2-512": "stable-diffusion-v2-768-v"}
_OWN_LATENTS = ("latents_mean", "latents_std", "shift_factor")
# The code whose names the tensors have, as sd-scripts names it in every such file.
_CODE = "https://github.com/Stability-AI/generative-models"
_SAID = {"epsilon": "epsilon", "v_prediction": "v"}
# Of other bytes, or of what the scheduler says anew.
_STALE = ("modelspec.hash_sha256", "sshs_", OWN_PREDICTION, "modelspec.predict", MARK)


class About(NamedTuple):
    """What a single file says of itself.

    Attributes:
      template: the kind of model.
      channels: that its UNet reads.
      scheduler: its raw scheduler_config.json.
      side: pixels of a square image that it was trained on; None if that is not known.
      title: its name, where nothing else gives it one.
    """

    template: Template
    channels: int
    scheduler: JsonObject
    side: int | None
    title: str

    @property
    def prediction(self) -> str:
        """What its UNet predicts."""
        return str(self.scheduler.get("prediction_type", "epsilon"))

    def marks(self, kept: Iterable[str] = ()) -> dict[str, np.ndarray]:
        """Returns its marks, empty tensors.

        Programs tell what SD 2.x predicts by its weights, and its public files have no mark.

        Args:
          kept: those that it had, which stay where they are true.
        """
        true = {
            V_PRED: self.prediction == "v_prediction",
            ZTSNR: bool(self.scheduler.get("rescale_betas_zero_snr")),
        }
        usual = {V_PRED: self.template != "sd2", ZTSNR: True}
        return {
            mark: np.zeros(0, np.float32)
            for mark, holds in true.items()
            if holds and (usual[mark] or mark in kept)
        }

    def metadata(self, kept: Mapping[str, str]) -> dict[str, str]:
        """Returns the strings of its header.

        Args:
          kept: those that it had; its title and resolution stay.
        """
        name = _NAMES.get((self.template, self.channels), _NAMES[self.template, 4])
        if self.prediction == "v_prediction":
            name = _V_NAMES.get(name, name)
        side = {"modelspec.resolution": f"{self.side}x{self.side}"} if self.side else {}
        return {
            "format": "pt",
            "modelspec.title": self.title,
            **side,
            **{key: value for key, value in kept.items() if not key.startswith(_STALE)},
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": name,
            "modelspec.implementation": _CODE,
            **self._said_prediction(),
        }

    def _said_prediction(self) -> dict[str, str]:
        said = _SAID.get(self.prediction)
        if said is None:
            return {OWN_PREDICTION: self.prediction}
        return {"modelspec.prediction_type": said, "modelspec.predict_key": said}


def latent_side(unet: JsonObject, vae: JsonObject) -> int | None:
    """Returns the pixels of a square image by raw configs; None if they do not say."""
    latents, blocks = unet.get("sample_size"), vae.get("block_out_channels")
    if not isinstance(latents, int) or not isinstance(blocks, list):
        return None
    return latents * 2 ** (len(blocks) - 1)


def check_latents(vae: JsonObject, family: Family, where: str) -> None:
    """Checks that readers find the scale of the latents, which a single file does not say.

    A scaling factor other than the family's is a log warning.

    Args:
      vae: the raw config.json of the VAE.
      family: of the model.
      where: the VAE, for messages.

    Raises:
      UserError: its latents are changed by more than a scale.
    """
    if found := [name for name in _OWN_LATENTS if vae.get(name) is not None]:
        raise UserError(
            f"{where} has {' and '.join(found)}, which a checkpoint in one file cannot say; name a "
            "folder to write"
        )
    usual = VAE_SCALES[family]
    if (own := vae.get("scaling_factor", VAE_SCALES["sd1"])) != usual:  # diffusers' default
        logger.warning(
            "%s has the scaling_factor %s, and readers of one file take %s unless they are given "
            "the folder as config",
            where,
            own,
            usual,
        )
