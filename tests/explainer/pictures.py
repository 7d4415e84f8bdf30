"""The README's pictures, of the built site: `python tests/explainer/pictures.py` after `make site`; needs Chromium."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURES = {
    "ravine": "story/02-ravine.html",
    "five-steps": "story/05-five-steps.html",
    "company": "story/08-company.html",
}


def take(to: Path = ROOT / "docs/pictures") -> None:
    """Writes a PNG of each scene's default figure, on white, at twice the size."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("error: there is no chromium; on Debian: apt-get install chromium")
    to.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 1200}, device_scale_factor=2, color_scheme="light")
        for name, address in PICTURES.items():
            page.goto((ROOT / "_site" / address).as_uri())
            figure = page.locator(f"bn-{name} figure").first
            figure.wait_for()
            figure.screenshot(path=to / f"{name.replace('-', '_')}.png")
        browser.close()


if __name__ == "__main__":
    take()
