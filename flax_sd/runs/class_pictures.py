"""Pictures of a class for regularisation, drawn by the model before it is trained."""

import pathlib

import jax

from flax_sd.config import Config
from flax_sd.errors import UserError
from flax_sd.progress import Progress
from flax_sd.runs import gallery, sample
from flax_sd.runs.datasets import open_sets
from flax_sd.runs.sample_options import SampleOptions


def draw(config: Config, progress: Progress) -> None:
    """Draws those that data.class_prompt asks for and that are not there.

    They are what `sample.py` would draw with its defaults (DreamBooth, Ruiz et al. 2023, section
    3.2; `--class_prompt` of diffusers' train_dreambooth.py).

    Raises:
      UserError: they cannot be drawn, or not into this folder.
    """
    prompt, path = config.data.class_prompt, config.data.regularisation
    if prompt is None or path is None:
        return
    folder = pathlib.Path(path)
    _refuse_strangers(folder)
    model = config.model
    options = SampleOptions(
        model=model.path,
        prompt=prompt,
        images_per_prompt=config.data.class_pictures,
        clip_skip=model.clip_skip,
        dtype=config.compute_dtype,
        vae=model.vae,
        revision=model.revision,
        variant=model.variant,
        out=folder,
    )
    if jax.process_count() > 1:
        raise UserError(
            "data.class_prompt draws in one process, and this run has "
            f"{jax.process_count()}: draw before it, with python sample.py --model {model.path} "
            f'--prompt "{prompt}" --images-per-prompt {config.data.class_pictures} --out {path}, '
            "and leave data.class_prompt out"
        )
    open_sets(without_undrawn(config))  # whose faults are to be known before
    progress.say(f"pictures for data.regularisation {path}: {prompt!r}")
    sample.run(options, progress)


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
