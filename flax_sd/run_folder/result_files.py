"""The files that a run ends with, by their places."""

import os
import pathlib

from flax_sd.config import Config, TokensConfig
from flax_sd.config.tokens import word
from flax_sd.embeddings.files import EMBEDS_FILE
from flax_sd.run_folder.layout import BEST_LORA, BEST_PEFT, LORA_FILE, PEFT_FILE

LONGEST = 200  # bytes of a name; file systems take 255 with all that is added to it


def lora_files(config: Config, *, best: bool = False) -> list[pathlib.Path]:
    """Returns a run's LoRA files: kohya's, PEFT's and, if it has one, the one of its name."""
    names = (BEST_LORA, BEST_PEFT) if best else (LORA_FILE, PEFT_FILE)
    name = lora_of_its_name(config, best=best)
    return [config.output / each for each in (*names, *([name] if name else ()))]


def lora_for_users(config: Config, *, best: bool = False) -> pathlib.Path:
    """Returns the file to draw with and to copy elsewhere: the one of its name, or else kohya's."""
    files = lora_files(config, best=best)
    return files[-1] if lora_of_its_name(config) else files[0]


def lora_of_its_name(config: Config, *, best: bool = False) -> str | None:
    """Returns the name of the file that bears the run's: cat.safetensors of --output runs/cat.

    Two runs' files then lie side by side in the folder of a user interface. None where the run is
    called as one of its files, as runs/lora.
    """
    stem = os.fsencode(config.output.resolve().name)[:LONGEST].decode("utf-8", "ignore")
    files = (LORA_FILE, PEFT_FILE, BEST_LORA, BEST_PEFT, EMBEDS_FILE)
    if not stem or stem.lower() in {pathlib.Path(file).stem for file in files}:
        return None
    return f"{stem}_best.safetensors" if best else f"{stem}.safetensors"


def token_paths(cfg: TokensConfig, folder: pathlib.Path, stem: str) -> dict[str, pathlib.Path]:
    """The file of each token, since no tool reads two from one."""
    if len(cfg.names) == 1:
        return {name: folder / f"{stem}.safetensors" for name in cfg.names}
    return {name: folder / f"{stem}_{word(name)}.safetensors" for name in cfg.names}


def token_files(
    cfg: TokensConfig, output: pathlib.Path, *, best: bool = False
) -> dict[str, pathlib.Path]:
    """The files that a run ends with: of its last state, or of its best."""
    stem = EMBEDS_FILE.removesuffix(".safetensors")
    return token_paths(cfg, output, f"{stem}_best" if best else stem)


def trained_files(config: Config) -> list[tuple[str, str]]:
    """The components that are trained whole, each with its tensor file's stem."""
    stems = {"text_encoder": "model"}  # transformers' name
    return [(name, stems.get(name, "diffusion_pytorch_model")) for name in config.fully_trained]
