"""Pages in a real browser: headless Chromium."""

import html
import json
import pathlib
import re
import shutil
import subprocess
import urllib.parse
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


# A window is at least 500 pixels wide; a frame inside it is as narrow as it should be.
FRAME = """<!doctype html><html><body style="margin: 0"><iframe src="{}" style="border: 0;
width: {}px; height: 900px"></iframe><script>
onmessage = (event) => document.title = event.data;
</script></body></html>"""


def evaluate(
    page: pathlib.Path, expression: str, *flags: str, scripts: str = "", width: int = 800
) -> str:
    """Opens a page from the file system; the value of a JavaScript expression once it is loaded.

    `errors` are what the console has shown by then, and what could not be loaded. A promise is
    waited for. `scripts` are loaded before.
    """
    script = f"<script>{scripts}</script><script>onload = async () => {{\n"
    script += f"parent.postMessage(`value:${{await ({expression})}}:`, '*')}}</script>"
    copy = page.with_name(f"evaluated-{page.name}")
    head, rest = page.read_text("utf-8").split("<head>", 1)
    copy.write_text(f"{head}<head>{ERRORS}{rest}{script}", "utf-8")
    frame = page.with_name(f"frame-{page.name}")
    frame.write_text(FRAME.format(urllib.parse.quote(copy.name), width), "utf-8")
    command = [CHROMIUM, *FLAGS, *flags, "--window-size=1400,1000", "--virtual-time-budget=5000"]
    command += ["--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search("<title>value:(.*?):</title>", done.stdout, re.DOTALL)
    assert found, done.stdout[:2000]
    return found[1]


def values(
    page: pathlib.Path, function: str, *flags: str, scripts: str = "", width: int = 800
) -> Any:
    """What a JavaScript function returns there, as JSON."""
    call = f"(async () => JSON.stringify(await ({function})()))()"
    return json.loads(html.unescape(evaluate(page, call, *flags, scripts=scripts, width=width)))
