"""What the pages of the site say of messages, samplers and files is so."""

import pathlib
import re

import jax
import pytest

import flax_sd
from flax_sd.config import Config
from flax_sd.config.file import option_fields
from flax_sd.samplers import SAMPLERS

PACKAGE = pathlib.Path(flax_sd.__file__).parent
ROOT = PACKAGE.parent
DOCS = ROOT / "docs"


def literals(*files: pathlib.Path) -> str:
    """The code, with the literals joined that stand one below the other."""
    code = "\n".join(file.read_text("utf-8") for file in files)
    return re.sub(r"([\"'])\s*\n\s*[rf]*[\"']", "", code)


@pytest.fixture(scope="module")
def messages() -> str:
    """All that the package, and JAX where it looks for devices, can say."""
    bridge = pathlib.Path(jax.__file__).parent / "_src" / "xla_bridge.py"
    return literals(*PACKAGE.rglob("*.py"), bridge)


def quoted() -> list[str]:
    page = (DOCS / "troubleshooting.md").read_text("utf-8")
    return re.findall(r"^### `(.+)`$", page, re.M)


def test_there_are_twenty_messages():
    assert len(quoted()) == 20


@pytest.mark.parametrize("message", quoted())
def test_the_program_says_the_message(messages, message):
    """D: between the names and numbers of a message, its words are those of the code."""
    parts = [part for part in message.split("…") if len(part.strip()) > 3]
    assert parts
    assert not [part for part in parts if part.strip() not in messages]


def test_the_table_has_every_sampler():
    page = (DOCS / "sampling.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+Scheduler) \| ([^|]+) \|", page, re.M)
    assert rows == [(name, entry.class_name, entry.title) for name, entry in SAMPLERS.items()]


def test_the_table_has_every_config():
    named = re.findall(r"\.\./configs/(\w+)\.yaml", (DOCS / "recipes.md").read_text("utf-8"))
    assert sorted(named) == sorted(path.stem for path in ROOT.glob("configs/*.yaml"))


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_the_options_that_a_page_names_exist(page):
    """D: `lora.rank`, in text and commands; names of files have the same form."""
    options = option_fields(Config)
    sections = {name.partition(".")[0] for name in options if "." in name}
    code = re.findall(r"`([^`\n]+)`|--([\w.]+)", page.read_text("utf-8"))
    names = re.findall(r"(?<![\w./])[a-z_]+\.\w+(?![\w/(.])", " ".join(map("".join, code)))
    files = ("py", "md", "jsonl", "safetensors")
    unknown = {n for n in names if n.partition(".")[0] in sections and n not in options}
    assert not {n for n in unknown if not n.endswith(files)}


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_addresses_are_well_formed(page):
    """The build has no network to ask them."""
    addresses = re.findall(r"\]\((\w+:[^)]*)\)", page.read_text("utf-8"))
    assert [a for a in addresses if not re.fullmatch(r"https://[\w.-]+\.\w+(/[!-~]*)?", a)] == []


def test_the_readme_links_to_files_that_are_there():
    """The links of docs/ are checked where the site is built."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text("utf-8"))
    assert len(links) > 20
    assert not [link for link in links if not (ROOT / link).is_file()]


def test_the_python_interface_says_what_every_argument_is():
    griffe = pytest.importorskip("griffe", reason="needs the docs extra")
    package = griffe.load("flax_sd", search_paths=[ROOT], docstring_parser="google")
    page = (DOCS / "api.md").read_text("utf-8")
    named = [package[name] for name in re.findall(r"^::: flax_sd\.([\w.]+)$", page, re.M)]
    assert len(named) > 15
    functions = [each for each in named if each.is_function]
    for each in named:
        if each.is_class:
            members = [f for name, f in each.all_members.items() if not name.startswith("_")]
            functions += [f for f in members if f.is_function]
    untold = {f.path: missing for f in functions if (missing := undocumented(f))}
    assert not untold


def undocumented(function) -> set[str]:
    """The parameters that the docstring's Args do not have."""
    sections = function.docstring.parsed if function.docstring else ()
    told = {p.name for part in sections if part.kind == "parameters" for p in part.value}
    return {p.name for p in function.parameters} - {"self", "cls"} - {n.strip("*") for n in told}
