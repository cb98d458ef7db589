"""The pages that are made from other files when the site is built."""

import re

import pytest

from flax_sd.config import Config
from flax_sd.config.file import option_fields
from flax_sd.generation.options import SampleOptions

site_pages = pytest.importorskip("scripts.site_pages", reason="needs the docs extra")


def test_each_option_has_a_heading_and_a_line():
    found = re.findall(r"^### (\S+)\n\n(.+)\n\n\*(.+)\*$", site_pages.options(), re.M)
    assert site_pages.OPTIONS in (site_pages.ROOT / "docs" / "options.md").read_text("utf-8")
    names, own = [name for name, *_ in found], len(option_fields(Config))
    assert names[:own] == [*option_fields(Config)]
    flags = [f"--{name.replace('_', '-')}" for name in SampleOptions.model_fields]
    assert {*flags, "RUN", "RUNS", "--bake", "--topology", "--all"} < set(names[own:])
    facts = {name: about for name, _, about in reversed(found)}
    assert facts["lora.rank"] == "default `4`"
    assert facts["compute_dtype"].startswith("one of `auto`, `float32`")
    assert facts["train.epochs"] == "unset by default"
    assert facts["--to"].endswith("required")


def test_links_to_files_outside_docs_lead_to_their_pages():
    assert "](architecture.md)" in site_pages.page_of("CONTRIBUTING.md")
    page = type("Page", (), {"file": type("File", (), {"src_uri": "recipes.md"})})
    text = "[a](../configs/ddpm.yaml) [b](data.md#shapes) [c](https://x.org/a.md) [d](#there)"
    assert site_pages.on_page_markdown(text, page) == text.replace(
        "../configs/ddpm.yaml", "configs/ddpm.md"
    )


def test_a_table_shows_the_bar_that_its_markdown_escapes():
    html = r"<td><code>{a\|b}</code></td><pre>a\|b</pre>"
    assert site_pages.on_page_content(html) == r"<td><code>{a|b}</code></td><pre>a\|b</pre>"
