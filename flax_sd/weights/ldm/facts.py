"""What a single file is: its family, its task, and what its UNet predicts."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from flax_sd.errors import UserError
from flax_sd.weights.family import Family
from flax_sd.weights.ldm.header import OWN_PREDICTION
from flax_sd.weights.ldm.parts import UNET, Part, Shapes, Template

_FAMILIES: dict[int, Template] = {  # by the width of the text that the UNet attends to
    768: "sd1",
    1024: "sd2",
    1280: "sdxl_refiner",
    2048: "sdxl",
}
_CROSS = re.compile(r".*\.attn2\.to_k\.weight")
_FIRST = re.compile(rf"({re.escape(UNET)})?input_blocks\.0\.0\.weight")
_INPUTS = {4: "text-to-image", 8: "edit", 9: "inpainting"}
_PREDICTIONS = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "v-pred": "v_prediction",
    "vpred": "v_prediction",
    "v_parameterization": "v_prediction",
    "sample": "sample",
}
_SPEC = "modelspec."
# The second is ComfyUI's.
_SAYS_PREDICTION = (f"{_SPEC}prediction_type", f"{_SPEC}predict_key", OWN_PREDICTION)
_ARCHITECTURES = {  # SD 2.x was trained in both ways
    "stable-diffusion-v2-512": "epsilon",
    "stable-diffusion-v2-768-v": "v_prediction",
    "stable-diffusion-v2-inpainting": "epsilon",
}


class Facts(NamedTuple):
    """What a file says of itself, by its tensors and its metadata.

    Attributes:
      template: the public model whose configs describe it; None where a part tells too little, as
        a VAE does.
      task: text-to-image, inpainting (9 input channels) or edit (8).
      prediction: epsilon, v_prediction or sample, where a mark tells it; None without a mark.
      zero_snr: whether its noise schedule ends in pure noise.
      side: pixels of a square image that it was trained on, if the metadata say so.
      unclear: why the marks do not tell what it predicts, if they contradict each other.
    """

    template: Template | None
    task: str = "text-to-image"
    prediction: str | None = None
    zero_snr: bool = False
    side: int | None = None
    unclear: str | None = None

    @property
    def family(self) -> Family | None:
        """The family; the refiner belongs to SDXL."""
        return "sdxl" if self.template == "sdxl_refiner" else self.template


def read_facts(shapes: Shapes, metadata: Mapping[str, str], parts: list[Part], where: str) -> Facts:
    """Reads what a file is.

    Args:
      shapes: of all tensors in the file.
      metadata: the strings in its header.
      parts: its components.
      where: the file, for messages.

    Raises:
      UserError: a mark names what is not supported.
    """
    template = _template(shapes, parts)
    task = _task(shapes, where)
    prediction, unclear = _prediction(shapes, metadata, where)
    if (template, task, prediction, unclear) == ("sd2", "inpainting", None, None):
        prediction = "epsilon"  # of the only public one
    return Facts(template, task, prediction, "ztsnr" in shapes, _side(metadata), unclear)


def _template(shapes: Shapes, parts: list[Part]) -> Template | None:
    width = next((shape[-1] for key, shape in shapes.items() if shape and _CROSS.match(key)), 0)
    if width in _FAMILIES:
        return _FAMILIES[width]
    text = {part.component: part.prefix for part in parts if part.component.startswith("text")}
    match sorted(text):
        case ["text_encoder", "text_encoder_2"]:
            return "sdxl"
        case ["text_encoder_2"]:
            return "sdxl_refiner"
        case ["text_encoder"]:
            return "sd2" if text["text_encoder"].endswith(".model.") else "sd1"
    return None


def _task(shapes: Shapes, where: str) -> str:
    first = next((shape for key, shape in shapes.items() if _FIRST.fullmatch(key)), None)
    if first is None:
        return _INPUTS[4]
    if len(first) != 4 or first[1] not in _INPUTS:
        known = ", ".join(f"{n} ({task})" for n, task in _INPUTS.items())
        raise UserError(
            f"{where}: its UNet's first convolution has shape {list(first)}; the second number, of "
            f"the channels that it reads, should be one of {known}"
        )
    return _INPUTS[first[1]]


def _prediction(
    shapes: Shapes, metadata: Mapping[str, str], where: str
) -> tuple[str | None, str | None]:
    """Returns what the marks say that the UNet predicts, and why that is not clear."""
    said = {"the tensor v_pred": "v_prediction"} if "v_pred" in shapes else {}
    for name in _SAYS_PREDICTION:
        if value := metadata.get(name, "").strip().lower():
            if value not in _PREDICTIONS:
                raise UserError(
                    f"{where}: its metadata say {name} {value}; only epsilon and v are supported"
                )
            said[f"{name} {value}"] = _PREDICTIONS[value]
    if len(set(said.values())) > 1:
        return None, f"contradicts itself about what its UNet predicts: {' and '.join(said)}"
    architecture = metadata.get(f"{_SPEC}architecture", "").split("/")[0]
    return next(iter(said.values()), _ARCHITECTURES.get(architecture)), None


def _side(metadata: Mapping[str, str]) -> int | None:
    """Returns the side of the images, where they are square and 8 divides it."""
    size = re.fullmatch(r"(\d{2,5})(?:x(\d{2,5}))?", metadata.get(f"{_SPEC}resolution", ""))
    side = int(size[1]) if size and size[2] in (None, size[1]) else 0
    return side if side and side % 8 == 0 else None
