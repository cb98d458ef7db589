"""Measures the bundled base on the held-out images of its set.

python scripts/build_emoji_set.py
python -m benchmarks.base_model.figures [--model DIR] [--sheet out.png]

Prints the autoencoder's reconstruction error, and draws a sheet of images beside what the
autoencoder makes of them.
"""

import argparse
import pathlib

import jax
import numpy as np
from flax import nnx

from benchmarks.common.options import base_images
from flax_sd import data
from flax_sd.generation.image_grid import make_sheet
from flax_sd.weights.model_files import ModelFiles

AT_ONCE = 8


def reconstructions(
    model: str, images: data.Images, picked: list[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The images (all, or those picked) and what the VAE makes of them, both in [-1, 1].

    It decodes the mean of their latents.
    """
    graph, state = nnx.split(ModelFiles.find(model).load("vae", "float32"))

    def through(state: nnx.State, pixels: jax.Array) -> jax.Array:
        vae = nnx.merge(graph, state)
        return vae.decode(vae.encode(pixels).mean)

    jitted = jax.jit(through)
    rows = range(len(images)) if picked is None else picked
    pixels = np.stack([images.load(i, seed=0, sample=i) for i in rows])
    count = -(-len(pixels) // AT_ONCE)
    padded = pixels[np.arange(count * AT_ONCE) % len(pixels)]
    parts = np.split(padded, count)
    decoded = np.concatenate([np.asarray(jitted(state, part)) for part in parts])
    return pixels, np.clip(decoded[: len(pixels)], -1, 1)


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image, in dB; values in [-1, 1]."""
    mse = np.mean(np.square((a - b) / 2), axis=(1, 2, 3))
    return -10 * np.log10(mse)


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """[-1, 1] to 0 … 255."""
    return ((pixels + 1) * 127.5).round().astype(np.uint8)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled:base")
    parser.add_argument("--data", default="data/fluent-emoji-3d/held_out")
    parser.add_argument("--sheet", type=pathlib.Path)
    options = parser.parse_args()
    images = base_images(options.data)
    pixels, decoded = reconstructions(options.model, images)
    each = psnr(pixels, decoded)
    print(f"{len(each)} held-out images: PSNR mean {each.mean():.2f} dB,", end=" ")
    print(f"worst {each.min():.2f} dB ({images.names[int(each.argmin())]})")
    if options.sheet is not None:
        picked = range(0, len(each), max(1, len(each) // 8))
        rows = [[to_uint8(pixels[i]), to_uint8(decoded[i])] for i in picked]
        labels = [images.captions(i)[0] for i in picked]
        make_sheet(rows, ["image", "reconstruction"], labels).save(options.sheet)


if __name__ == "__main__":
    main()
