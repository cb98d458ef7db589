"""The inspect command: what a LoRA, embedding or checkpoint holds, and what loads it."""

import pathlib
from collections.abc import Mapping

from flax import nnx

from flax_sd.commands.inspect.checkpoint import inspect_checkpoint, is_checkpoint
from flax_sd.commands.inspect.embedding import inspect_embedding
from flax_sd.commands.inspect.lora import inspect_lora
from flax_sd.commands.inspect.printout import Page, add_general
from flax_sd.config import Config
from flax_sd.config.commands import InspectOptions
from flax_sd.embeddings import files as token_files
from flax_sd.errors import UserError
from flax_sd.lora.formats.base_models import foreign_model
from flax_sd.lora.formats.read import locate
from flax_sd.lora.formats.unsupported import unread_format
from flax_sd.run_folder.artifacts import find_source
from flax_sd.run_folder.layout import CONFIG as CONFIG_FILE
from flax_sd.run_folder.saved_config import config_of
from flax_sd.system import terminal
from flax_sd.system.exit_status import DONE, FAILED
from flax_sd.weights.model_files import ModelFiles
from flax_sd.weights.safetensors import TensorFile


def main(options: InspectOptions) -> int:
    """Prints the content of each file; returns 1 if one has a problem.

    Raises:
      UserError: there is no such file, it is damaged, or it is neither a LoRA nor an embedding.
    """
    paths, config = _find(options.path)
    networks = None if options.model is None else _networks(options.model)
    pages = [_inspect(path, networks, config, options) for path in paths]
    terminal.show("\n\n".join(page.text() for page in pages))
    return DONE if all(page.whole for page in pages) else FAILED


def _find(path: pathlib.Path) -> tuple[list[pathlib.Path], Config | None]:
    """Returns the files, and the config of their run, if any."""
    if not path.exists():
        raise UserError(f"{path} does not exist: name a LoRA or embedding file, or its folder")
    if (path / CONFIG_FILE).is_file():
        source = find_source(path, None, None, None)
        found = [*([source.lora] if source.lora else ()), *source.tokens.values()]
        if not found:
            raise UserError(f"{path} trained the whole model: there is no LoRA or embedding in it")
        return found, source.config
    if (path / token_files.EMBEDS_FILE).is_file():
        return [path / token_files.EMBEDS_FILE], None
    return [locate(path)], config_of(path)


def _networks(model: str) -> Mapping[str, nnx.Module]:
    files = ModelFiles.find(model)
    return {name: files.abstract(name) for name in files.kind.adapted}


def _inspect(
    path: pathlib.Path,
    networks: Mapping[str, nnx.Module] | None,
    config: Config | None,
    options: InspectOptions,
) -> Page:
    file = TensorFile(path)
    page = Page(path, options.all)
    add_general(page, file)
    if token_files.is_embedding(file):
        inspect_embedding(page, file, networks)
    elif is_checkpoint(file):
        if options.model is not None:
            raise UserError(f"--model is for LoRAs and embeddings, and {path} is a whole model")
        inspect_checkpoint(page, file)
    elif found := unread_format(file):
        model = foreign_model(file)
        page.add("for", model or "")
        page.add_problem("format", f"{found[0]}: not supported ({found[1]})")
    else:
        inspect_lora(page, file, networks, config)
    return page
