"""A line of a prompts file as sd-scripts has them: `a cat --n bad --w 64 --h 96 --d 7 --l 5.5`."""

import re
from typing import Any

OPTIONS: dict[str, tuple[str, type]] = {
    "n": ("negative_prompt", str),
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "s": ("steps", int),
    "l": ("guidance_scale", float),
    "ss": ("sampler", str),
}
SAMPLERS = {"k_euler": "euler", "k_euler_a": "euler_a"}  # its names of ours
_OPTION = re.compile(r"(?:^|\s)--(\w+)(?=\s|$)")
_WANTED = {int: "a whole number", float: "a number", str: "text"}


def parse_line(line: str) -> tuple[dict[str, Any], list[str]]:
    """Returns the values of a row, none for a comment, and what is wrong with the line."""
    if line.startswith("#"):
        return {}, []
    prompt, *parts = _OPTION.split(line)
    values: dict[str, Any] = {"prompt": prompt.strip()}
    problems = []
    for written, text in zip(parts[::2], map(str.strip, parts[1::2]), strict=True):
        if written.lower() not in OPTIONS:
            problems.append(f"--{written} is not read here: --{', --'.join(OPTIONS)} are")
            continue
        name, kind = OPTIONS[written.lower()]
        if name in values:
            problems.append(f"--{written} is there twice")
        try:
            values[name] = kind(text)
        except ValueError:
            problems.append(f"--{written} is {text!r}: should be {_WANTED[kind]}")
        if not text and kind is str:
            problems.append(f"--{written} has no text")
    if values.get("sampler") in SAMPLERS:
        values["sampler"] = SAMPLERS[values["sampler"]]
    return values, problems
