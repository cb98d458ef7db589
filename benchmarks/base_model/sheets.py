"""Sheets of what the base draws: training captions, compositions, samplers beside step counts.

python scripts/build_emoji_set.py
python -m benchmarks.base_model.sheets [--model DIR] [--out docs]

Every image is the first that its seed gives, from 0 counting up; none is picked.
"""

import argparse
import pathlib
from typing import Any

import numpy as np

from benchmarks.common.options import base_images
from flax_sd import StableDiffusion
from flax_sd.generation.image_grid import make_grid, make_sheet

KNOWN, AT_ONCE, ACROSS = 48, 8, 8
GUIDANCE, STEPS = 4.0, 50
COMPOSITIONS = """
a blue strawberry; a green apple with a face; a purple banana; a red tiger face; a yellow car;
a pink rocket; a black cat face; a white rose; an orange whale; a blue pizza; a golden heart;
a green fire; a cat face and a red apple; a dog face and a ball; a snowman and a tree;
a robot with a crown; a panda with sunglasses; a frog with a hat; a ghost and a pumpkin;
a pig with glasses; a house and the sun; a bear in the snow; a fish and a cup; a strawberry cake
"""
SAMPLERS = ("ddpm", "ddim", "pndm", "euler", "euler_a")
COUNTS = (10, 20, 50)
PROMPT = "a 3d render of a red apple"


def draw(sd: StableDiffusion, prompts: list[str]) -> list[np.ndarray]:
    """One image a prompt."""
    given: Any = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "sampler": "ddim"}
    parts = [prompts[k : k + AT_ONCE] for k in range(0, len(prompts), AT_ONCE)]
    drawn = [sd.generate(part, seed=AT_ONCE * k, **given) for k, part in enumerate(parts)]
    return list(np.concatenate(drawn))


def main() -> None:
    """Draws and writes the three sheets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled:base")
    parser.add_argument("--data", default="data/fluent-emoji-3d/train")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs"))
    options = parser.parse_args()
    sd = StableDiffusion.load(options.model)
    opened = base_images(options.data)
    picked = (
        np.random.default_rng(0)
        .choice(len(opened), min(KNOWN, len(opened)), replace=False)
        .tolist()
    )
    known = [opened.captions(i)[0] for i in picked]
    new = [f"a 3d render of {' '.join(text.split())}" for text in COMPOSITIONS.split(";")]
    for name, prompts in (("base_known", known), ("base_new", new)):
        labels = [prompt.removeprefix("a 3d render of ") for prompt in prompts]
        grid, _ = make_grid(draw(sd, prompts), labels, ACROSS)
        grid.save(options.out / f"{name}.jpg", quality=90)
    rows = []
    for sampler in SAMPLERS:
        given: Any = {"guidance_scale": GUIDANCE, "sampler": sampler, "seed": 0}
        rows.append([sd.generate(PROMPT, num_inference_steps=n, **given)[0] for n in COUNTS])
    sheet = make_sheet(rows, [f"{n} steps" for n in COUNTS], SAMPLERS)
    sheet.save(options.out / "base_samplers.jpg", quality=90)


if __name__ == "__main__":
    main()
