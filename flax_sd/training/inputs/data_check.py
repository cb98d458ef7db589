"""The check of images and captions before a run: its findings, and a page that shows them."""

import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax

from flax_sd import data
from flax_sd.config import Config
from flax_sd.data import Bad, Finding, Images
from flax_sd.files.atomic import write_atomically
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.reports import data_report
from flax_sd.run_folder.layout import BASE_LOSS, DATA_REPORT, QUARANTINE, VAL_LOSS, quarantined
from flax_sd.training.inputs.datasets import Sets
from flax_sd.training.setup import new_tokens
from flax_sd.weights.hub import BUNDLED


class Report(NamedTuple):
    """The sets and their findings, by option: data.path first."""

    sets: dict[str, Images]
    findings: dict[str, list[Finding]]
    shards: int = 0  # of a stream, whose first stands for data.path
    beyond: dict[str, list[Bad]] = {}  # left out of the other shards, if they were opened
    unused: dict[str, list[Bad]] = {}  # not used in these

    def brief(self) -> str:
        """Returns the beginning of a run: what was found, and what is left out."""
        found = any(self.findings.values())
        more = [f"{DATA_REPORT} in the run's folder shows what was found"] if found else []
        return "\n".join(self._parts(data.brief) + more)

    def _parts(self, said: Callable[[Images, list[Finding]], str]) -> list[str]:
        """Returns what is said of each set, and before it how many shards there are."""
        parts = [
            ("held out of " if option == "data.held_out_share" else "")
            + said(images, self.findings[option])
            for option, images in self.sets.items()
        ]
        if self.shards:
            when = "all were opened" if self.beyond else "each is checked when it comes"
            parts.insert(0, f"{self.shards} shards; {when}, and this is of the first:")
        return parts

    def text(self) -> str:
        """Returns the whole report for the terminal."""
        parts = self._parts(data.summary)
        for what, found in (("left out of", self.beyond), ("unused in", self.unused)):
            parts += [
                f"{what} {shard} ({len(bad)}):" + "".join(f"\n  {n}: {why}" for n, why in bad)
                for shard, bad in found.items()
                if bad
            ]
        return "\n".join(parts)

    def write(self, folder: pathlib.Path) -> None:
        """Writes the page, and a line for each image that is left out; no file is moved.

        Raises:
          UserError: they cannot be written.
        """
        if jax.process_index() != 0:
            return
        write_atomically(folder / DATA_REPORT, data_report.report_page(self.sets, self.findings))
        left_out = [(images.cfg.path, images.bad) for images in self.sets.values()]
        left_out += self.beyond.items()
        lines = [json.dumps(line) for each in left_out for line in quarantined(*each)]
        write_atomically(folder / QUARANTINE, "".join(line + "\n" for line in lines))


def check(config: Config, sets: Sets) -> Report:
    """Looks for problems of the images and captions of a run.

    Raises:
      UserError: a new token is in no caption, or has fewer vectors than initial tokens.
    """
    # All Stable Diffusion models have CLIP's vocabulary, so the model itself is not needed.
    tokenizer = Tokenizer.load(BUNDLED / "base" / "tokenizer")
    tokenizer = new_tokens.counted(config.tokens, tokenizer)
    tokenizer = tokenizer.with_length(config.data.max_token_length)
    new_tokens.check_captions(config.tokens, sets.train)
    cut_off = None if not config.mode.prompted else tokenizer.cut_off
    held_out = "data.held_out" if config.data.held_out_share is None else "data.held_out_share"
    options = {VAL_LOSS: held_out, BASE_LOSS: "data.held_out_base"}
    named = {"data.path": sets.train}
    named |= {
        option: sets.evaluated[key] for key, option in options.items() if key in sets.evaluated
    }
    findings = {option: data.check(images, cut_off) for option, images in named.items()}
    if VAL_LOSS in sets.evaluated:
        leaked = data.duplicates_across(sets.train, sets.evaluated[VAL_LOSS])
        findings[held_out] = data.sort_findings([*findings[held_out], *leaked])
    return Report(named, findings, len(sets.shards))
