"""A line of a prompts file of sd-scripts: `a cat --n bad --w 64 --h 96 --d 7 --l 5.5`."""

import re

from flax_sd.files.json_values import JsonObject

OPTIONS: dict[str, tuple[str, type]] = {
    "n": ("negative_prompt", str),
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "s": ("steps", int),
    "l": ("guidance_scale", float),
    "ss": ("sampler", str),
}
_OPTION = re.compile(r"(?:^|\s)--(\w+)(?=\s|$)")
_WANTED = {int: "a whole number", float: "a number", str: "text"}


def parse_line(line: str) -> tuple[JsonObject, list[str]]:
    """Returns the values of a row, empty for a comment, and the problems of the line."""
    if line.startswith("#"):
        return {}, []
    prompt, *parts = _OPTION.split(line)
    values: JsonObject = {"prompt": prompt.strip()}
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
    return values, problems
