"""Writes a run's new tokens for other tools."""

import pathlib

from flax_sd.embeddings.files import KOHYA_KEY, read_written, write
from flax_sd.errors import UserError
from flax_sd.weights.destination import MARK, check_free


def write_tokens(files: dict[str, pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Writes each token as sd-scripts does, {"emb_params": [n, d]}, or SDXL's two tables; returns
    the path.

    Args:
      files: the run's files, by token.
      out: a file ending in .safetensors, whose name becomes the word; or a folder.

    Raises:
      UserError: there are several tokens for one file, or `out` is not free.
    """
    targets = {token: out / path.name for token, path in files.items()}
    if out.suffix == ".safetensors":
        if len(files) > 1:
            raise UserError(f"--out {out} is one file, and {', '.join(files)} need one each")
        targets = dict.fromkeys(files, out)
    for target in targets.values():
        check_free(target, "--out")
    for token, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        write(target, read_written(files[token], token), KOHYA_KEY, {MARK: "kohya"})
    return out
