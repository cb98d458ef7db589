"""The options of other trainers and ours beside them: one table, for a page and for messages."""

import functools
import pathlib
import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

import yaml

TABLE = pathlib.Path(__file__).with_suffix(".yaml")
HEAD = "| theirs | ours | differences |\n|---|---|---|\n"
QUOTED = re.compile(r"`([^`]+)`( \(off\))?")
OPTION = re.compile(r"(--)?(?!metadata\.)[a-z_-]+(\.[a-z_0-9]+)?( .*)?")  # not a kind of file
DIFFERENT = ("not here", "not needed")


class Row(NamedTuple):
    """A row of the table, in Markdown.

    Attributes:
      trainer: whose options they are.
      values: of theirs, what they are called here.
    """

    trainer: str
    theirs: str = ""
    ours: str = ""
    differs: str = ""
    values: dict[str, str] = {}

    def cells(self) -> str:
        """Returns the row as the page has it."""
        named = ", ".join(f"`{old}` is `{new}`" for old, new in self.values.items())
        differs = "; ".join(filter(None, [self.differs, named]))
        cells = [f" {cell}" if cell else "" for cell in (self.theirs, self.ours, differs)]
        return f"|{cells[0]} |{cells[1]} |{cells[2]} |\n"

    def names(self) -> dict[str, str]:
        """Returns their options, and each as it stands in the table."""
        found = {re.match(r"-*([A-Za-z]\w*)", quoted): quoted for quoted, _ in self._theirs()}
        return {match[1].lower(): quoted for match, quoted in found.items() if match}

    def counterpart(self, name: str) -> str:
        """Returns our option for one of theirs, as a flag; several if they are not paired."""
        ours = [(_flag(option), off) for option, off in QUOTED.findall(self.ours)]
        names = [*self.names()]
        if len(names) == len(ours) > 1:
            flag, off = ours[names.index(name)]
            return flag + off
        return QUOTED.sub(lambda found: _flag(found[1]) + (found[2] or ""), self.ours)

    def options(self) -> list[str]:
        """Returns the names of our options."""
        found = [option for option, _ in QUOTED.findall(self.ours) if OPTION.fullmatch(option)]
        return [option.split()[0].lstrip("-").replace("-", "_") for option in found]

    def _theirs(self) -> list[tuple[str, str]]:
        return QUOTED.findall(self.theirs)


@functools.cache
def _table() -> dict:
    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


@functools.cache
def rows() -> tuple[Row, ...]:
    """Returns every row of the table."""
    sections = _table()["sections"]
    return tuple(
        Row(section["trainer"], **row) for section in sections for row in section.get("rows", ())
    )


def page() -> str:
    """Returns the page about them, in Markdown."""
    table = _table()
    parts = [f"# {table['title']}\n", f"{table['text']}\n"]
    for section in table["sections"]:
        parts.append(f"{section['heading']}\n")
        if text := section.get("text"):
            parts.append(f"{text}\n")
        if own := section.get("rows"):
            parts.append(HEAD + "".join(Row(section["trainer"], **row).cells() for row in own))
    return "\n".join(parts)


def answer(name: str, known: Collection[str]) -> str | None:
    """Returns what to do instead of an option of another trainer; None if none has it.

    Args:
      name: in small letters, without dashes.
      known: the options of the command.
    """
    found = [row for row in rows() if name in row.names() and _concerns(row, known)]
    plain = [row for row in found if " " not in row.names()[name]]
    said = dict.fromkeys(_sentences(plain or found, name))
    return "; ".join(said) or None


def _concerns(row: Row, known: Collection[str]) -> bool:
    """Tells whether a row is about options of a command."""
    ours = row.options()
    return any(option in known for option in ours) if ours else "train.steps" in known


def _sentences(found: list[Row], name: str) -> Iterator[str]:
    """Yields a sentence for each different answer, with the trainers that it is for."""
    answers: dict[str, dict[str, Row]] = {}
    for row in found:  # of several of a trainer, the first is of its main script
        same = answers.setdefault(row.counterpart(name) or row.differs, {})
        same.setdefault(row.trainer, row)
    for ours, same in answers.items():
        whose = f"that of {' and '.join(same)}"
        if any(row.ours for row in same.values()):
            yield f"for {whose} use {ours}{_differences(same)}"
        elif ours.startswith(DIFFERENT):
            yield f"{whose} is {_plain(ours)}"
        else:
            yield f"instead of {whose}: {_plain(ours)}"


def _differences(same: dict[str, Row]) -> str:
    """Returns in brackets how the options of trainers differ from ours, if they do."""
    said = {trainer: _plain(row.differs) for trainer, row in same.items() if row.differs}
    texts = [*dict.fromkeys(said.values())]
    if len(texts) > 1 or len(said) < len(same):
        texts = [f"{trainer}: {text}" for trainer, text in said.items()]
    return f" ({'; '.join(texts)})" if texts else ""


def our_value(option: str, value: str) -> str | None:
    """Returns what a value of other trainers is called here; None if none has it."""
    for row in rows():
        names = {old.lower(): new for old, new in row.values.items()}
        if option in row.options() and value.lower() in names:
            return names[value.lower()]
    return None


def _flag(option: str) -> str:
    """Returns an option, as the table has it, as a flag; a kind of file stays."""
    return f"--{option.removeprefix('--')}" if OPTION.fullmatch(option) else option


def _plain(markdown: str) -> str:
    """Returns Markdown as plain text."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown).replace("`", "").replace("\\|", "|")
