"""Pages in a real browser: headless Chromium."""

import pathlib
import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


def evaluate(page: pathlib.Path, expression: str) -> str:
    """Opens a page from the file system; the value of a JavaScript expression once it is loaded."""
    script = f"<script>onload = () => document.title = `value:${{{expression}}}:`</script>"
    copy = page.with_name(f"evaluated-{page.name}")
    copy.write_text(page.read_text("utf-8") + script, "utf-8")
    command = [CHROMIUM, *FLAGS, "--virtual-time-budget=5000", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search("<title>value:(.*?):</title>", done.stdout)
    assert found, done.stdout[:2000]
    return found[1]
