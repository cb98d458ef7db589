"""PNG files of images, with the settings that they were generated with."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from flax_sd.files.atomic import atomic_file
from flax_sd.files.json_values import JsonObject
from flax_sd.pipelines.request import guided
from flax_sd.samplers import web_names

TEXT, RECORD = "parameters", "flax_sd"  # PNG text chunks: of web UIs and of flax_sd


def parameters(record: JsonObject) -> str:
    """Returns an image's settings in the format of AUTOMATIC1111's web UI, which others read too.

    LoRAs are in the prompt as `<lora:name:scale>`, the only place where web UIs look for them.

    Args:
      record: the image's line of metadata.jsonl; without prompts for an unconditional model.
    """
    loras, guidance = record.get("loras", []), record.get("guidance_scale")
    tags = [f"<lora:{lora['name']}:{lora['scale']:g}>" for lora in loras]
    lines = [" ".join([record.get("text", ""), *tags])]
    if record.get("negative_prompt") and guided(record["guidance_scale"]):
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    values = {
        "Steps": record["steps"],
        **dict(zip(("Sampler", "Schedule type"), web_names(record["sampler"]), strict=True)),
        "CFG scale": None if guidance is None else f"{guidance:g}",
        "Seed": record["seed"],
        "Size": f"{record['width']}x{record['height']}",
        "Model hash": record["model_hash"],
        "Model": record["model"],
        "VAE": record.get("vae"),
        "Refiner": _refiner(record),
        "Refiner switch at": record.get("refiner_start"),
        # Web UIs count from the last layer, which is 1.
        "Clip skip": record["clip_skip"] + 1 if record.get("clip_skip") else None,
        "Lora hashes": _hashes(loras),
        "TI hashes": _hashes(record.get("embeddings", [])),
        "Version": "flax_sd",
    }
    present = {name: str(value) for name, value in values.items() if value not in (None, "")}
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in present.items()))
    return "\n".join(lines)


def _refiner(record: JsonObject) -> str | None:
    """Returns the refiner as web UIs write it, with its hash."""
    return f"{record['refiner']} [{record['refiner_hash']}]" if "refiner" in record else None


def _hashes(files: Sequence[JsonObject]) -> str:
    return ", ".join(f"{file['name']}: {file['hash']}" for file in files)


def _quoted(value: str) -> str:
    """Quotes values that would break the list as JSON strings, as the web UI does."""
    return json.dumps(value, ensure_ascii=False) if set(value) & set(',:\n"') else value


def write(path: pathlib.Path, pixels: UInt8[np.ndarray, "h w 3"], record: JsonObject) -> None:
    """Writes an image and its settings; equal content gives equal bytes.

    Raises:
      UserError: the disk is full or the folder cannot be written to.
    """
    text = PngInfo()
    text.add_text(TEXT, parameters(record))
    text.add_text(RECORD, json.dumps(record))
    with atomic_file(path) as file:
        Image.fromarray(pixels).save(file, format="PNG", pnginfo=text)


def read_record(path: pathlib.Path) -> JsonObject | None:
    """Reads an image's settings; None without a file, empty for a file of another program."""
    if not path.exists():
        return None
    try:
        with Image.open(path) as image:  # reads no further than the text before the pixels
            record = json.loads(image.info.get(RECORD, "{}"))
    except (OSError, UnidentifiedImageError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
