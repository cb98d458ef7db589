"""Writes docs/coming_from.md, whose tables also answer flags of other trainers.

python scripts/build_coming_from.py
"""

import pathlib

from flax_sd.config.coming_from import page

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "coming_from.md"

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
