"""The LoRA files of a run: a pair at every save; at the end also one with the run's name."""

import pathlib

from flax_sd.config import Config
from flax_sd.data import Images
from flax_sd.lora.formats import kohya, kohya_families, peft
from flax_sd.lora.inject import extract
from flax_sd.lora.targets import slots
from flax_sd.run_folder.layout import LORAS_FOLDER
from flax_sd.run_folder.result_files import lora_files
from flax_sd.training.outputs import lora_header
from flax_sd.weights.fill import as_dtype
from flax_sd.weights.model import Model


class LoRAResults:
    """Writes the LoRA of the networks."""

    def __init__(self, config: Config, model: Model, images: Images):
        """Takes the images, whose tags the files list."""
        self._config, self._model, self._images = config, model, images
        self._dtype = as_dtype(config.save_dtype)

    def save(self, name: str) -> None:
        """Writes the pair of a save, as loras/NAME.safetensors and loras/NAME_peft.safetensors.

        Raises:
          UserError: it cannot be written.
        """
        folder = self._config.output / LORAS_FOLDER
        folder.mkdir(exist_ok=True)
        self._write(folder / f"{name}.safetensors", folder / f"{name}_peft.safetensors")

    def finish(self, *, best: bool = False) -> None:
        """Writes the results, of the last or of the best state.

        Raises:
          UserError: one cannot be written.
        """
        self._write(*lora_files(self._config, best=best))

    def _write(
        self, for_uis: pathlib.Path, for_peft: pathlib.Path, named: pathlib.Path | None = None
    ) -> None:
        networks = self._model.networks
        lora = {name: extract(networks[name]) for name in self._config.lora_components}
        family, side = self._model.files.family, self._config.data.resolution
        naming = kohya_families.naming(family, slots(networks["unet"]))
        header = kohya_families.metadata(family, self._model.scheduler_config, side)
        header |= lora_header.tag_frequency(self._images)
        kohya.write(for_uis, lora, header, dtype=self._dtype, naming=naming)
        peft.write(for_peft, lora, dtype=self._dtype)
        if named is not None:
            header |= lora_header.said_of_run(self._config) | lora_header.title(named.stem)
            kohya.write(named, lora, header, dtype=self._dtype, naming=naming)
