"""The LoRA files of a run: a pair at every save, and at the end one more under the run's name."""

import os
import pathlib

from flax_sd.components import read_component_config
from flax_sd.config import Config
from flax_sd.data import Pictures
from flax_sd.family import family_of
from flax_sd.lora.inject import extract
from flax_sd.lora.write import kohya_metadata, write_kohya, write_peft
from flax_sd.runs import lora_header
from flax_sd.runs.parts import Parts
from flax_sd.tokens.files import EMBEDS_FILE
from flax_sd.weights.fill import as_dtype

LORA_FILE = "lora.safetensors"  # kohya names, the format that every user interface loads
PEFT_FILE = "pytorch_lora_weights.safetensors"  # diffusers' own
BEST_LORA, BEST_PEFT = "lora_best.safetensors", "lora_best_peft.safetensors"
FOLDER = "loras"  # of those of every save
LONGEST = 200  # bytes of a name; file systems take 255 with all that is added to it


class LoRAResults:
    """Writes them out of the networks."""

    def __init__(self, config: Config, parts: Parts, pictures: Pictures):
        """Takes the pictures whose tags the files name."""
        self._config, self._parts, self._pictures = config, parts, pictures
        self._dtype = as_dtype(config.save_dtype)

    def save(self, name: str) -> None:
        """Writes the pair of a save, as loras/NAME.safetensors and loras/NAME_peft.safetensors.

        Raises:
          UserError: it cannot be written.
        """
        folder = self._config.output / FOLDER
        folder.mkdir(exist_ok=True)
        self._write(folder / f"{name}.safetensors", folder / f"{name}_peft.safetensors")

    def finish(self, *, best: bool = False) -> None:
        """Writes the results, of the last or of the best state.

        Raises:
          UserError: one cannot be written.
        """
        self._write(*results(self._config, best=best))

    def _write(
        self, kohya: pathlib.Path, peft: pathlib.Path, named: pathlib.Path | None = None
    ) -> None:
        networks = self._parts.networks
        lora = {name: extract(networks[name]) for name in self._config.lora_components}
        text_config = read_component_config(self._parts.folder, "text_encoder")
        prediction = self._parts.scheduler_config.get("prediction_type", "epsilon")
        header = kohya_metadata(family_of(text_config), prediction)
        header |= lora_header.tag_frequency(self._pictures)
        write_kohya(kohya, lora, header, dtype=self._dtype)
        write_peft(peft, lora, dtype=self._dtype)
        if named is not None:
            header |= lora_header.said_of_run(self._config) | lora_header.title(named.stem)
            write_kohya(named, lora, header, dtype=self._dtype)


def results(config: Config, *, best: bool = False) -> list[pathlib.Path]:
    """Returns the files that a run ends with: kohya's, PEFT's and, if it has one, the named one."""
    names = (BEST_LORA, BEST_PEFT) if best else (LORA_FILE, PEFT_FILE)
    name = named(config, best=best)
    return [config.output / each for each in (*names, *([name] if name else ()))]


def for_users(config: Config, *, best: bool = False) -> pathlib.Path:
    """Returns the file to draw with and to copy elsewhere: the named one, or else kohya's."""
    files = results(config, best=best)
    return files[-1] if named(config) else files[0]


def named(config: Config, *, best: bool = False) -> str | None:
    """Returns the name of the file that bears the run's: cat.safetensors of --output runs/cat.

    Two runs' files then lie side by side in the folder of a user interface. None where the run is
    called as one of its files, as runs/lora.
    """
    stem = os.fsencode(config.output.resolve().name)[:LONGEST].decode("utf-8", "ignore")
    files = (LORA_FILE, PEFT_FILE, BEST_LORA, BEST_PEFT, EMBEDS_FILE)
    if not stem or stem.lower() in {pathlib.Path(file).stem for file in files}:
        return None
    return f"{stem}_best.safetensors" if best else f"{stem}.safetensors"
