"""Pictures of a class for regularisation, drawn by the model before it is trained."""

import pathlib
import shlex

import jax

from flax_sd.config import Config
from flax_sd.errors import UserError
from flax_sd.generation import gallery, run
from flax_sd.generation.options import SampleOptions
from flax_sd.system.progress import Progress
from flax_sd.training.inputs.datasets import open_sets


def draw(config: Config, progress: Progress) -> None:
    """Draws those that data.class_prompt asks for and that are not there.

    They are what `sample.py` would draw with its defaults (DreamBooth, Ruiz et al. 2023, section
    3.2; `--class_prompt` of diffusers' train_dreambooth.py).

    Raises:
      UserError: they cannot be drawn, or not into this folder.
    """
    if config.data.class_prompt is None or config.data.regularisation is None:
        return
    options = _options(config, config.data.class_prompt, pathlib.Path(config.data.regularisation))
    _refuse_strangers(options.out)
    others = without_undrawn(config)
    if others is not config:
        open_sets(others)  # whose faults are to be known before
    if jax.process_count() == 1:
        progress.say(f"pictures for data.regularisation {options.out}: {options.prompt!r}")
        run.run(options, progress)
    elif others is not config:
        raise UserError(
            f"data.class_prompt draws in one process, and this run has {jax.process_count()}: draw "
            f"before it, with {shlex.join(options.command())}"
        )


def _options(config: Config, prompt: str, folder: pathlib.Path) -> SampleOptions:
    model = config.model
    return SampleOptions(
        model=model.path,
        prompt=prompt,
        images_per_prompt=config.data.class_pictures,
        clip_skip=model.clip_skip,
        max_token_length=config.data.max_token_length,
        dtype=config.compute_dtype,
        vae=model.vae,
        revision=model.revision,
        variant=model.variant,
        out=folder,
    )


def without_undrawn(config: Config) -> Config:
    """The config for a look at all pictures but those that are not drawn yet."""
    data = config.data
    if data.class_prompt is None or data.regularisation is None:
        return config
    if (pathlib.Path(data.regularisation) / gallery.METADATA).exists():
        return config
    nothing = {"regularisation": None, "class_prompt": None}
    return config.model_copy(update={"data": data.model_copy(update=nothing)})


def _refuse_strangers(folder: pathlib.Path) -> None:
    """Raises UserError where the list of what is drawn would hide pictures of the user's."""
    if not folder.is_dir() or (folder / gallery.METADATA).exists():
        return
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    strangers = [name for name in names if not gallery.is_drawn(name)]
    if strangers:
        raise UserError(
            f"data.regularisation {folder} holds {strangers[0]}, which data.class_prompt did not "
            "draw and would leave unused: name another folder, or leave the prompt out"
        )
