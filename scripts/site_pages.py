"""Pages of the documentation that are made from other files; mkdocs.yml names this as its hook.

Files outside docs/ become pages, so that a link to them works on the site as in the repository, and
the page of all options is filled from the config. Nothing of it is written into docs/.
"""

import pathlib
import posixpath
import re
import typing

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic.fields import FieldInfo

from flax_sd import cli
from flax_sd.config import Config
from flax_sd.config.file import option_fields
from flax_sd.config.flags import is_word

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {  # a file of the repository -> its page
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "flax_sd/bundled/base/README.md": "base_card.md",
    **{f"configs/{path.name}": f"configs/{path.stem}.md" for path in ROOT.glob("configs/*.yaml")},
}
OPTIONS = "<!-- options: made from the config when the site is built -->"  # in options.md
_CELL = re.compile(r"<td.*?</td>", re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not files of docs/."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, content=page_of(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turns links to files outside docs/ into links to their pages, and adds the options."""
    folder = posixpath.dirname(page.file.src_uri)
    markdown = markdown.replace(OPTIONS, options())
    return _LINK.sub(lambda link: _to_page(link[1], f"docs/{folder}"), markdown)


def on_page_content(html: str, **_: object) -> str:
    r"""Shows | in the code of a table's cell, where the repository's Markdown needs \|."""
    return _CELL.sub(lambda cell: cell[0].replace("\\|", "|"), html)


def page_of(path: str) -> str:
    """Returns the page of a file: its text, with links as from docs/, or its code."""
    text = (ROOT / path).read_text("utf-8")
    if path.endswith(".md"):
        return _LINK.sub(lambda link: _to_page(link[1], posixpath.dirname(path)), text)
    name = posixpath.basename(path)
    return f"---\nsearch: {{exclude: true}}\n---\n# {name}\n\n```yaml\n{text}```\n"


def _to_page(link: str, folder: str) -> str:
    """Returns a link from a file in `folder` as a link from a page in docs/."""
    path = posixpath.normpath(posixpath.join(folder, link))
    if path in PAGES:
        return PAGES[path]
    return link if folder.startswith("docs") else path.removeprefix("docs/")


def options() -> str:
    """Returns a heading and a line for each option, from the config's own documentation."""
    parts = []
    section = None
    for name, field in option_fields(Config).items():
        if section != (section := name.rpartition(".")[0]):
            parts.append(f"## {section or 'The whole run'}")
        parts.append(_described(name, field))
    for command in cli.COMMANDS:
        own = cli.options_of(command).model_fields
        parts += [f"## flax-sd {command}"] if own else []
        for name, field in own.items():
            parts.append(_described(_as_typed(name, field), field))
    return "\n\n".join(parts)


def _as_typed(name: str, field: FieldInfo) -> str:
    """Returns a flag, or the name in capitals of an argument without one."""
    return name.upper() if is_word(field) else f"--{name.replace('_', '-')}"


def _described(name: str, field: FieldInfo) -> str:
    values = ", ".join(f"`{value}`" for value in _choices(field.annotation))
    facts = [f"one of {values}"] if values else []
    facts.append("required" if field.is_required() else _default(field.default))
    text = " ".join((field.description or "").split())
    return f"### {name}\n\n{_escaped(text)}\n\n*{'; '.join(facts)}*"


def _choices(annotation: object) -> list[object]:
    """Returns the values that a Literal names, inside of Optional and Annotated too."""
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    inside = typing.get_args(annotation) if typing.get_origin(annotation) is not tuple else ()
    return [value for part in inside for value in _choices(part)]


def _default(value: object) -> str:
    if value in (None, (), {}, ""):
        return "unset by default"
    return f"default `{str(value).lower() if isinstance(value, bool) else value}`"


def _escaped(text: str) -> str:
    """Returns text in which Markdown finds no markup but code."""
    return re.sub(r"([\\*_<>\[\]])", r"\\\1", text)
