"""The paths of a run's results."""

import os
import pathlib

from flax_sd.config import Config, TokensConfig
from flax_sd.config.tokens import word
from flax_sd.embeddings.files import EMBEDS_FILE
from flax_sd.run_folder.layout import BEST_LORA, BEST_PEFT, LORA_FILE, PEFT_FILE

MAX_NAME = 200  # bytes; file systems take 255, with suffixes


def lora_files(config: Config, *, best: bool = False) -> list[pathlib.Path]:
    """Returns a run's LoRA files: kohya's, PEFT's and the one with the run's name, if any."""
    names = (BEST_LORA, BEST_PEFT) if best else (LORA_FILE, PEFT_FILE)
    name = lora_of_its_name(config, best=best)
    return [config.output / each for each in (*names, *([name] if name else ()))]


def lora_for_users(config: Config, *, best: bool = False) -> pathlib.Path:
    """Returns the LoRA file for other programs: that with the run's name, or else kohya's."""
    files = lora_files(config, best=best)
    return files[-1] if lora_of_its_name(config) else files[0]


def lora_of_its_name(config: Config, *, best: bool = False) -> str | None:
    """Returns the file with the run's name: cat.safetensors of --output runs/cat.

    So files of several runs fit into one folder of a user interface. None if the run has the name
    of another file, as runs/lora.
    """
    stem = os.fsencode(config.output.resolve().name)[:MAX_NAME].decode("utf-8", "ignore")
    files = (LORA_FILE, PEFT_FILE, BEST_LORA, BEST_PEFT, EMBEDS_FILE)
    if not stem or stem.lower() in {pathlib.Path(file).stem for file in files}:
        return None
    return f"{stem}_best.safetensors" if best else f"{stem}.safetensors"


def token_paths(cfg: TokensConfig, folder: pathlib.Path, stem: str) -> dict[str, pathlib.Path]:
    """Returns the file of each token, since no tool reads two tokens from one."""
    if len(cfg.names) == 1:
        return {name: folder / f"{stem}.safetensors" for name in cfg.names}
    return {name: folder / f"{stem}_{word(name)}.safetensors" for name in cfg.names}


def token_files(
    cfg: TokensConfig, output: pathlib.Path, *, best: bool = False
) -> dict[str, pathlib.Path]:
    """Returns the token files of a run's last or best state."""
    stem = EMBEDS_FILE.removesuffix(".safetensors")
    return token_paths(cfg, output, f"{stem}_best" if best else stem)


def trained_files(config: Config) -> list[tuple[str, str]]:
    """Returns the fully trained components, each with the stem of its tensor file."""
    stems = {"text_encoder": "model"}  # transformers' name
    return [(name, stems.get(name, "diffusion_pytorch_model")) for name in config.fully_trained]
