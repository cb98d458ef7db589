"""The summary of a finished run: the change of its losses, and commands to go on with."""

import json
import pathlib
import shlex

from flax_sd.config import Config, flags
from flax_sd.files.json_values import JsonObject
from flax_sd.generation.options import SampleOptions
from flax_sd.reports.confidence_interval import said_change
from flax_sd.run_folder import result_files
from flax_sd.run_folder.layout import BASE_LOSS, BEST_MODEL, CONFIG, METRICS, MODEL_FOLDER, VAL_LOSS

MEANING = {
    VAL_LOSS: "held-out images, like those of the training",
    BASE_LOSS: "images like those of the base model",
}


def summary(config: Config, best: int | None = None, *, early: bool = False) -> list[str]:
    """Returns lines for the end of a run, with values of its metrics.jsonl.

    Args:
      best: the step with the lowest val_loss, if the run keeps its state.
      early: validation.patience ended the run.
    """
    return [*_losses(config), *_best(config, best), *_next(config, early=early)]


def _best(config: Config, step: int | None) -> list[str]:
    """Returns a line with the path of the best state's result."""
    rows = [row for row in _metrics(config.output / METRICS) if row.get("step") == step]
    if step is None or not rows or rows[-1].get(VAL_LOSS) is None:
        return []
    tokens = result_files.token_files(config.tokens, config.output, best=True)
    if config.mode.adapters:
        path = result_files.lora_for_users(config, best=True)
    else:
        path = next(iter(tokens.values()), config.output / BEST_MODEL)
    change, half = (rows[-1].get(f"{VAL_LOSS}_{name}") for name in ("change", "change_ci"))
    covers_zero = change is not None and half is not None and abs(change) <= half
    doubt = ", no measurable change since step 0" if covers_zero else ""
    return [f"lowest {VAL_LOSS} {rows[-1][VAL_LOSS]:.4f} at step {step}{doubt}: {path}"]


def _losses(config: Config) -> list[str]:
    """Returns a line for each held-out loss that was evaluated before and after the run."""
    rows = _metrics(config.output / METRICS)
    lines = []
    for name, meaning in MEANING.items():
        values = [row[name] for row in rows if row.get(name) is not None]
        if len(values) > 1:
            change = said_change(values[0], values[-1], rows[-1].get(f"{name}_change_ci"))
            lines.append(f"{name:9} {values[0]:.4f} -> {values[-1]:.4f}  {change:>7}  {meaning}")
    if BASE_LOSS in "".join(lines) and config.mode.adapters:
        lines.append("without the LoRA the model is unchanged, bit for bit")
    return ["", *lines] if lines else []


def _metrics(path: pathlib.Path) -> list[JsonObject]:
    """Returns the lines of the metrics; none if the file is missing or damaged."""
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return []


def _next(config: Config, *, early: bool) -> list[str]:
    """Returns commands to try next."""
    if not config.mode.denoises:
        return []
    usual = f"a photo of {next(iter(config.tokens.names), 'a cat')}"
    prompt = next(iter(config.sample.prompts), usual if config.tokens.names else "a cat")
    what = {"images_per_prompt": 16} if config.mode.unconditional else {"prompt": prompt}
    sample = SampleOptions.model_validate({**_model(config), **what, "seed": 1}).command()
    longer = [*flags.words("train"), str(config.output / CONFIG)]
    if early:
        longer += ["--validation.patience", str(2 * (config.validation.patience or 1))]
    else:
        longer += ["--train.steps", str(2 * config.train.steps)]
    return [
        "",
        "generate images:  " + shlex.join(sample),
        "train it longer:  " + shlex.join(longer),
    ]


def _model(config: Config) -> JsonObject:
    """Returns the options that generate images as the run generated its samples."""
    output, model = config.output, config.model
    text = {"clip_skip": model.clip_skip, "max_token_length": config.data.max_token_length}
    if config.fully_trained:
        return {"model": str(output / MODEL_FOLDER), **text}
    files = [f"{result_files.lora_for_users(config)}:0.8"] if config.mode.adapters else []
    embeddings = map(str, result_files.token_files(config.tokens, output).values())
    names = ("revision", "variant", "vae", "prediction_type", "zero_snr")
    own = {name: getattr(model, name) for name in names}
    return {"model": model.path, "lora": files, "embedding": [*embeddings], **own, **text}
