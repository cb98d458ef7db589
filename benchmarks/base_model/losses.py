"""The error of the noise by timestep on held-out images, and the course of a training run.

python scripts/build_emoji_set.py
python -m benchmarks.base_model.losses [--model DIR ...]
python -m benchmarks.base_model.losses --metrics runs/base/metrics.jsonl --curve docs/base_curve.svg

Each image is noised at ten timesteps, one of every hundred, with the same noise for every model.
"""

import argparse
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.common.options import base_images
from flax_sd import StableDiffusion, data
from flax_sd.diffusion.schedule import NoiseSchedule

BANDS, AT_ONCE = 10, 8
WINDOW = 10  # logged lines that a point of the curve is the mean of
WIDTH, HEIGHT, MARGIN = 720, 300, 50


def losses(model: str, images: data.Images) -> np.ndarray:
    """Mean squared error of the noise in each band of timesteps."""
    sd = StableDiffusion.load(model, "float32")
    schedule = NoiseSchedule.from_config(sd.scheduler_config)
    (vae, vae_state), (unet, unet_state) = nnx.split(sd.vae), nnx.split(sd.unet)
    scale = sd.vae.config.scaling_factor

    @jax.jit
    def encode(pixels: jax.Array) -> jax.Array:
        return nnx.merge(vae, vae_state).encode(pixels).mean * scale

    @jax.jit
    def error(latents: jax.Array, text: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        noise = jax.random.normal(key, latents.shape)
        out = nnx.merge(unet, unet_state)(schedule.add_noise(latents, noise, t), t, text)
        return jnp.mean(jnp.square(out - schedule.target(latents, noise, t)), axis=(1, 2, 3))

    sums, steps = np.zeros(BANDS), schedule.alphas_cumprod.size // BANDS
    for start in range(0, len(images), AT_ONCE):
        rows = [i % len(images) for i in range(start, start + AT_ONCE)]
        latents = encode(np.stack([images.load(i, seed=0, sample=i) for i in rows]))
        text = sd.encode_prompt([images.captions(i)[0] for i in rows]).text
        valid = min(AT_ONCE, len(images) - start)
        for band in range(BANDS):
            key = jax.random.fold_in(jax.random.key(band), start)
            t = jax.random.randint(key, (AT_ONCE,), band * steps, (band + 1) * steps)
            sums[band] += float(np.sum(np.asarray(error(latents, text, t, key))[:valid]))
    return sums / len(images)


def curve(metrics: pathlib.Path) -> str:
    """An SVG of the training loss, smoothed, and the held-out loss where it was measured."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    logged = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    parts = [logged[k : k + WINDOW] for k in range(0, len(logged) - WINDOW + 1, WINDOW)]
    means = [tuple(np.mean(part, axis=0).tolist()) for part in parts]
    held = [(row["step"], row["val_loss"]) for row in rows if "val_loss" in row]
    last, top = rows[-1]["step"], 1.1 * max(y for _, y in means + held)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return MARGIN + x / last * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - y / top * (
            HEIGHT - 2 * MARGIN
        )

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, means))
    dots = [(*place(point), point[1]) for point in held]
    floor = HEIGHT - MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<path d="M{MARGIN},{MARGIN} V{floor} H{WIDTH - MARGIN}" fill="none" stroke="gray"/>',
            f'<text x="{MARGIN}" y="{MARGIN - 10}">loss: training (line), held out (dots)</text>',
            f'<text x="{WIDTH - MARGIN}" y="{floor + 20}" text-anchor="end">step {last}</text>',
            f'<polyline points="{line}" fill="none" stroke="#2266bb" stroke-width="1.5"/>',
            *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#cc4422"/>' for x, y, _ in dots),
            *(f'<text x="{x - 8:.1f}" y="{y - 8:.1f}">{value:.4f}</text>' for x, y, value in dots),
            "</svg>\n",
        ]
    )


def main() -> None:
    """Measures and prints, or draws the curve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["bundled:base"])
    parser.add_argument("--data", default="data/fluent-emoji-3d/held_out")
    parser.add_argument("--metrics", type=pathlib.Path)
    parser.add_argument("--curve", type=pathlib.Path, default=pathlib.Path("docs/base_curve.svg"))
    options = parser.parse_args()
    if options.metrics is not None:
        options.curve.write_text(curve(options.metrics))
        return
    images = base_images(options.data)
    columns = [losses(model, images) for model in options.model]
    print("| timesteps | " + " | ".join(options.model) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for band in range(BANDS):
        cells = " | ".join(f"{column[band]:.4f}" for column in columns)
        print(f"| {band * 100}–{band * 100 + 99} | {cells} |")
    print("| mean | " + " | ".join(f"{column.mean():.4f}" for column in columns) + " |")


if __name__ == "__main__":
    main()
