"""The inspect command's rows on a LoRA."""

import collections
import json
import pathlib
import shlex
from collections.abc import Iterable, Mapping

from flax import nnx

from flax_sd.commands.inspect.printout import Page
from flax_sd.config import Config
from flax_sd.errors import UserError
from flax_sd.lora.formats import kohya, sd_layers
from flax_sd.lora.formats.base_models import family, foreign_model, text_widths
from flax_sd.lora.formats.compatibility import support
from flax_sd.lora.formats.contents import LoRAContents, read_contents
from flax_sd.lora.formats.read import read
from flax_sd.weights.identity import display_name
from flax_sd.weights.safetensors import TensorFile
from flax_sd.weights.tensor_kinds import FAMILIES

_LAYERS_SHOWN, _TAGS_SHOWN, _MAX_ENTRY = 3, 5, 60  # layers, tags, letters
_HEADER = {  # rows, and the header's entries in each
    "name": ("ss_output_name", "modelspec.title", "modelspec.author"),
    "base": ("ss_base_model_version", "ss_sd_model_name", "modelspec.architecture"),
    "prediction": ("modelspec.prediction_type", "ss_zero_terminal_snr"),
    "training": (
        "ss_max_train_steps",
        "ss_steps",
        "ss_total_batch_size",
        "ss_num_train_images",
        "ss_resolution",
        "ss_learning_rate",
        "ss_optimizer",
        "ss_clip_skip",
        "ss_max_token_length",
        "ss_training_comment",
    ),
    "trigger": ("modelspec.trigger_phrase", "modelspec.usage_hint"),
}


def inspect_lora(
    page: Page, file: TensorFile, networks: Mapping[str, nnx.Module] | None, config: Config | None
) -> None:
    """Adds format, layers, sizes, origin and the programs that load it.

    Args:
      networks: networks of the model that it should fit, if one was named.
      config: config of the run that trained it, if it is known.

    Raises:
      UserError: it is not a LoRA, or PEFT's config is missing or not readable.
    """
    contents = read_contents(file)
    width, _ = text_widths(contents.inputs())
    kind = "DoRA" if contents.is_dora else "LoRA"
    stabilised = ", rank-stabilised" if contents.is_rank_stabilised else ""
    page.add("format", f"{kind}{stabilised}, {contents.formats}")
    odd = (
        ""
        if width in FAMILIES
        else ", which no Stable Diffusion has: web UIs cannot load such a model"
    )
    model = foreign_model(file) or (family(width) + odd if width else "")
    page.add("for", model)
    _add_layers(page, contents)
    page.add_problem("broken", *page.names(contents.problems))
    page.add("embeddings", ", ".join(contents.bundled))
    _add_header(page, file.metadata)
    if config is not None:
        _add_run(page, config)
    page.add_support(support(contents, contents.family), len(file))
    page.add("for all", _remedy(file.path, contents))
    if networks is not None:
        _add_fit(page, file, networks)


def _remedy(path: pathlib.Path, contents: LoRAContents) -> str:
    """Returns the command that converts the file for all three programs, if that is needed."""
    if not contents.is_dora and contents.formats == kohya.TITLE:
        return ""
    rank = max((layer.rank for layer in contents.layers.values()), default=0)
    bake = f" --bake {rank}" if contents.is_dora else ""
    return f"flax-sd export {shlex.quote(str(path))} --to kohya{bake} --out FILE [--model MODEL]"


def _add_layers(page: Page, contents: LoRAContents) -> None:
    layers = contents.layers
    for component in dict.fromkeys(ref.component for ref in layers):
        kinds = collections.Counter(
            sd_layers.kind(p.path) for p in layers if p.component == component
        )
        shown = ", ".join(f"{count} {name}" for name, count in kinds.most_common())
        page.add(component, f"{kinds.total()} layers: {shown}")
    if not layers:
        return
    page.add("rank", _span(layer.rank for layer in layers.values()))
    scale = _span(layer.alpha / layer.rank for layer in layers.values())
    page.add("alpha", f"{_span(layer.alpha for layer in layers.values())} (alpha / rank {scale})")
    norms = {ref: contents.adapter(ref)[0].norm() for ref in layers}
    largest = sorted(layers, key=lambda ref: -norms[ref])[:_LAYERS_SHOWN]
    page.add("largest ‖ΔW‖", *(f"{norms[ref]:.3g}  {'.'.join(ref)}" for ref in largest))
    zero = sum(norm == 0 for norm in norms.values())
    page.add("zero", f"{zero} of {len(layers)} layers have no effect" if zero else "")


def _span(values: Iterable[float]) -> str:
    found = sorted(values)
    ends = [f"{value:.6g}" for value in (found[0], found[-1])]
    return " to ".join(dict.fromkeys(ends))


def _add_header(page: Page, metadata: Mapping[str, str]) -> None:
    """Adds the header's entries on base and training, and the names of the others."""
    # sd-scripts writes None for options that were not set.
    said = {key: value for key, value in metadata.items() if value != "None"}
    for label, keys in _HEADER.items():
        found = [f"{_short(key)} {said[key][:_MAX_ENTRY]}" for key in keys if key in said]
        page.add(label, ", ".join(found))
    page.add("tags", _tags(metadata.get("ss_tag_frequency", "")))
    shown = {"format", "ss_tag_frequency", *(key for keys in _HEADER.values() for key in keys)}
    others = ", ".join(page.names(sorted(metadata.keys() - shown)))
    page.add("header", f"further entries: {others}" if others else "")


def _short(key: str) -> str:
    return key.removeprefix("ss_").removeprefix("modelspec.").replace("_", " ")


def _tags(text: str) -> str:
    """Returns the most common tags of kohya's {folder: {tag: count}}."""
    try:
        folders = json.loads(text).values()
        counts = collections.Counter[str]()
        for tags in folders:
            counts.update({str(tag): int(count) for tag, count in tags.items()})
    except (ValueError, AttributeError, TypeError):  # not JSON, or of another form
        return ""
    return ", ".join(f"{tag} ({count})" for tag, count in counts.most_common(_TAGS_SHOWN))


def _add_run(page: Page, config: Config) -> None:
    """Adds options of the run that trained it."""
    train, lora = config.train, config.lora
    page.add(
        "run",
        f"{train.steps} steps of {train.batch_size} at {config.data.resolution} pixels, learning "
        f"rate {config.optim.learning_rate:g}, on {display_name(config.model.path)}",
        f"targets {lora.targets}{', rsLoRA' if lora.rslora else ''}",
    )
    template = config.data.template
    page.add("captions", f"as {template!r}" if template != "{}" else "")
    page.add("new tokens", ", ".join(config.tokens.names))


def _add_fit(page: Page, file: TensorFile, networks: Mapping[str, nnx.Module]) -> None:
    try:
        read(file.path, networks)
    except UserError as error:
        page.add_problem("fits", *str(error).split("\n  "))
    else:
        page.add("fits", "the model: it has every layer, in these shapes")
