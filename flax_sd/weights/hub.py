"""Finds a model: in a folder, in the package, or on the Hugging Face hub."""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import NoReturn

import huggingface_hub
from huggingface_hub import errors

from flax_sd.errors import UserError
from flax_sd.files.paths import named
from flax_sd.weights.diffusers_folder import weight_file

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
BUNDLED = pathlib.Path(__file__).parents[1] / "bundled"
_PAGE = re.compile(  # the address of a model on the hub, or of one of its files
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<id>[\w.-]+/[\w.-]+)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+))?(?P<rest>/[^?#]*)?(?:[?#].*)?"
)
# Without the VAE, which may be named by itself.
_COMPONENTS = ("unet", "text_encoder", "tokenizer", "scheduler")
_RUN_FILES = ("lora.safetensors", "learned_embeds.safetensors")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SMALL = re.compile(  # configs and tokenizers; not the safety checker's
    r"model_index\.json|config\.json|scheduler/[^/]*\.json|tokenizer(_\d)?/[^/]*|"
    r"(unet|vae|text_encoder(_\d)?)/config\.json"
)
_WEIGHTS = re.compile(r"(?:(unet|vae|text_encoder|text_encoder_2)/)?([^/]+)")


def resolve(
    source: str | os.PathLike[str], revision: str | None = None, variant: str | None = None
) -> pathlib.Path:
    """Returns the folder or file that `source` names, downloaded to the hub's cache if necessary.

    Args:
      source: a folder, which may be a repository in the hub's cache, a checkpoint in one
        .safetensors file, "bundled:NAME", or a hub id "organisation/name".
      revision: branch, tag or commit of a hub id.
      variant: which of a hub id's weight files to fetch, such as "fp16".

    Raises:
      UserError: there is no such folder or repository, or the hub cannot be reached.
    """
    path = named(source)
    source = os.fspath(source)
    if source.startswith("bundled:"):
        return _bundled(source)
    if path.is_dir():
        return _model_in(path, revision)
    if path.exists():
        _check_file(source, path.absolute())
        if given := revision or variant:
            raise UserError(
                f"{source} is a file: leave out {given!r}, which is for a hub id or a folder"
            )
        return path
    if "://" in source or _PAGE.fullmatch(source):
        _refuse_page(source)
    if not _HUB_ID.fullmatch(source.rstrip("/")):
        raise UserError(f"folder {source} does not exist")
    return _fetch(source.rstrip("/"), revision, variant)


def _model_in(path: pathlib.Path, revision: str | None) -> pathlib.Path:
    """Returns the folder itself, or a snapshot in it if it is a repository of the hub's cache."""
    if (path / "model_index.json").is_file():
        return path
    if (path / "snapshots").is_dir():
        return _snapshot(path, revision)
    if path.name in _COMPONENTS and (path.parent / "model_index.json").is_file():
        raise UserError(f"{path} is a component of the model {path.parent}: name that folder")
    if (path / "config.json").is_file() or (path / "unet").is_dir():
        return path
    if any((path / name).is_file() for name in _RUN_FILES):
        raise UserError(
            f"{path} holds a trained LoRA or embedding, not a model: name the model that it was "
            "trained on, and this folder as its LoRA or embedding"
        )
    inside = sorted(found.parent for found in path.glob("*/model_index.json"))
    if inside:
        which = "one" if len(inside) == 1 else "several"
        names = ", ".join(map(str, inside))
        raise UserError(f"{path} is not a model, but holds {which}: name {names}")
    return path


def _snapshot(path: pathlib.Path, revision: str | None) -> pathlib.Path:
    """Returns a revision's folder in a repository of the hub's cache."""
    there = sorted(found for found in (path / "snapshots").iterdir() if found.is_dir())
    named = path / "refs" / (revision or "main")
    commit = named.read_text("utf-8", "replace").strip() if named.is_file() else revision
    for snapshot in there:
        if snapshot.name == commit or (revision is None and len(there) == 1):
            return snapshot
    names = ", ".join(map(str, there)) or "none"
    raise UserError(
        f"{path} is a repository of the hub's cache that lacks revision {revision or 'main'}; "
        f"its snapshots: {names}"
    )


def _check_file(source: str, path: pathlib.Path) -> None:
    """Raises UserError for a file that is no checkpoint, or that is a part of a model's folder."""
    for folder in path.parents:
        beside = path.parent == folder and path.suffix == ".safetensors"
        if (folder / "model_index.json").is_file() and not beside:
            raise UserError(f"{source} is a file of the model {folder}: name that folder")
    if path.suffix in PICKLES:
        raise UserError(
            f"{source} is a pickle, which can run code when it is opened; convert it once where "
            f"torch is installed, with d = torch.load({path.name!r}, weights_only=True); "
            "safetensors.torch.save_file(d.get('state_dict', d), "
            f"'{path.stem}.safetensors')"
        )
    if path.suffix != ".safetensors":
        raise UserError(
            f"{source} is a file, but no .safetensors: name a checkpoint, a diffusers folder or a "
            "hub id"
        )


def _refuse_page(source: str) -> NoReturn:
    """Raises for an address, and names the hub id in it."""
    page = _PAGE.fullmatch(source)
    if page is None:
        raise UserError(f"{source} is an address: download the model and name its folder")
    named = page["revision"]
    revision = f", and its revision {named}" if named not in (None, "main") else ""
    raise UserError(
        f"{source} is a page of the hub: name the model by its id, {page['id']}{revision}"
    )


def _bundled(source: str) -> pathlib.Path:
    folder = BUNDLED / source.removeprefix("bundled:")
    there = sorted(path.name for path in BUNDLED.iterdir() if (path / "unet").is_dir())
    if folder.name not in there:
        names = ", ".join(f"bundled:{name}" for name in there)
        raise UserError(f"{source} does not come with the package; {names} do")
    return folder


def needed_files(names: Sequence[str], variant: str | None, where: str) -> list[str]:
    """Returns the files of a repository that a load reads: one form of the weights, no pickles.

    Raises:
      UserError: a component has no weights that can be read.
    """
    needed = [name for name in names if _SMALL.fullmatch(name)]
    inside: dict[str, list[str]] = {}
    for name in names:
        if found := _WEIGHTS.fullmatch(name):
            inside.setdefault(found[1] or "", []).append(found[2])
    is_pipeline = "model_index.json" in names
    for component, files in inside.items():
        if bool(component) != is_pipeline:
            continue  # single-file checkpoints beside a pipeline's folders are not read
        chosen = weight_file(files, variant, f"{where}/{component}".rstrip("/"))
        if chosen.endswith(".json"):
            shards = [name for name in files if "-of-" in name and name.endswith(".safetensors")]
            of_variant = [name for name in shards if variant and f".{variant}" in name]
            plain = [name for name in shards if name.count(".") == 1]
            files = of_variant if variant and f".{variant}." in chosen else plain
        else:
            files = []
        needed += [f"{component}/{name}".lstrip("/") for name in (chosen, *files)]
    return needed


def _fetch(repo: str, revision: str | None, variant: str | None) -> pathlib.Path:
    """Returns the repository's folder in the cache, updated if the hub can be reached."""
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision)
        names = [file.rfilename for file in info.siblings or []]
        patterns = needed_files(names, variant, repo)
        folder = huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns)
        return pathlib.Path(folder)
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repo} is gated: accept its licence on huggingface.co, then run hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repo} has no revision {revision} on the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{repo} is neither a folder here nor a public repository of the hub"
        ) from error
    except Exception as error:  # the client's network errors have no base class of their own
        return _cached(repo, revision, error)


def _cached(repo: str, revision: str | None, reason: Exception) -> pathlib.Path:
    """Returns the folder that earlier downloads left; loading it names what is missing."""
    try:
        folder = huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True)
        return pathlib.Path(folder)
    except errors.LocalEntryNotFoundError as error:
        # Only the requested files are there, which newer versions call incomplete.
        if partial := getattr(error, "snapshot_path", None):
            return pathlib.Path(partial)
        at = f"{repo}, revision {revision}," if revision else repo
        raise UserError(
            f"{at} is neither a folder here nor in the hub's cache, and the hub cannot be reached "
            f"({type(reason).__name__})"
        ) from reason
