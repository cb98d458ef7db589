"""Pages in a real browser: headless Chromium."""

import html
import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
DARK = "--blink-settings=preferredColorScheme=0"
ERRORS = """<script>
window.errors = [];
addEventListener("error", (event) => errors.push(String(event.message || event.target.src)), true);
console.error = console.warn = (...words) => errors.push(words.join(" "));
</script>"""


def evaluate(page: pathlib.Path, expression: str, *flags: str) -> str:
    """Opens a page from the file system; the value of a JavaScript expression once it is loaded.

    `errors` are what the console has shown by then, and what could not be loaded.
    """
    script = f"<script>onload = () => document.title = `value:${{{expression}}}:`</script>"
    copy = page.with_name(f"evaluated-{page.name}")
    head, rest = page.read_text("utf-8").split("<head>", 1)
    copy.write_text(f"{head}<head>{ERRORS}{rest}{script}", "utf-8")
    command = [CHROMIUM, *FLAGS, *flags, "--virtual-time-budget=5000", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search("<title>value:(.*?):</title>", done.stdout)
    assert found, done.stdout[:2000]
    return found[1]


def values(page: pathlib.Path, function: str, *flags: str) -> Any:
    """What a JavaScript function returns there, as JSON."""
    return json.loads(html.unescape(evaluate(page, f"JSON.stringify(({function})())", *flags)))
