"""What a run says of itself before it begins: its options, what it trains, what it writes when."""

import pathlib
import textwrap
from collections.abc import Collection, Iterator, Sequence

from flax_sd.config import Config
from flax_sd.config.section import option_fields, option_values
from flax_sd.run_folder.layout import CONFIG
from flax_sd.system.progress import Progress

LONGEST = 70  # letters of a value
WIDTH = 100
UNBROKEN = "\u00a0"  # a space at which no line ends


def show_options(
    config: Config, path: pathlib.Path, flags: Collection[str], progress: Progress
) -> None:
    """Prints the options that differ from the program's defaults, apart by where they were set.

    Args:
      path: of the config's file.
      flags: the options that flags set.
    """
    fields, values = option_fields(Config), option_values(config)
    differing = [name for name, value in values.items() if value != fields[name].default]
    own = [name for name in values if name in flags]
    here = pathlib.Path.cwd()
    file = path.relative_to(here) if path.is_relative_to(here) else path
    groups = {str(file): [name for name in differing if name not in flags], "flags": own}
    for head, names in groups.items():
        if names:
            said = [f"{name} {_short(values[name])}" for name in names]
            joined = ", ".join(one.replace(" ", UNBROKEN) for one in said)
            options = {"subsequent_indent": "  ", "break_on_hyphens": False}
            text = textwrap.fill(f"{head}: {joined}", WIDTH, **options)
            progress.say(text.replace(UNBROKEN, " "))
    progress.say(f"every other option has its default: {config.output / CONFIG} has all")


def _short(value: object) -> str:
    """Returns a value as it is typed, on a part of a line."""
    if isinstance(value, tuple | dict) and len(value) > 1:
        return f"({len(value)} of them)"
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if value is None or value is True or value is False:
        text = text.lower()
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def what_happens(config: Config) -> Iterator[str]:
    """Yields what is trained, and what is written when, a line each."""
    yield f"trains: {_trained(config)}"
    saved = _when(config.checkpoint.every, config.checkpoint.every_epochs)
    yield f"saves:  {saved}, and after the last step, in {config.output}"
    held_out = [
        name
        for name in ("data.held_out", "data.held_out_share", "data.held_out_base")
        if getattr(config.data, name.partition(".")[2]) is not None
    ]
    if held_out:
        evaluated = _when(config.validation.every, None)
        yield f"losses: of {' and '.join(held_out)}, {evaluated or 'before and after the run'}"
    if config.sample.wanted:
        drawn = _when(config.sample.every, config.sample.every_epochs)
        yield f"images: {_samples(config)}{drawn or 'before and after the run'}"
    yield "the time that is left is shown after the first steps"


def _trained(config: Config) -> str:
    """Returns what is trained, in words."""
    if config.mode.adapters:
        lora, where = config.lora, _joined(config.lora_components)
        what = f"a LoRA of rank {lora.rank} ({lora.targets}) for the {where}"
        tokens = f", and {', '.join(config.tokens.names)}" if config.tokens.names else ""
    elif not config.fully_trained:
        what, tokens = f"the new words {', '.join(config.tokens.names)}", ""
    else:
        what, tokens = f"all of the {_joined(config.fully_trained)}", ""
    return f"{what.replace('_', ' ')}{tokens}, with {config.optim.method}"


def _joined(names: Sequence[str]) -> str:
    """Returns "unet, text_encoder and text_encoder_2"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _when(steps: int | None, epochs: int | None) -> str:
    """Returns "every 500 steps and every 2 epochs"; "" if neither is set."""
    counts = {"steps": steps, "epochs": epochs}
    return " and ".join(f"every {count} {unit}" for unit, count in counts.items() if count)


def _samples(config: Config) -> str:
    """Returns how many images are generated at a time."""
    if config.mode.unconditional:
        return f"{config.sample.count}, "
    return f"of {len(config.sample.prompts)} prompts, " if config.sample.prompts else ""
