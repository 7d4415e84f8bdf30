"""A browser on the built site, and what the tests read from it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_site"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
OPTIONS += ["--disable-sync", "--no-first-run", "--disable-quic"]
WIDTHS = (360, 768, 1440)
THEMES = ("light", "dark")

SCENES = sorted(path.stem for path in (ROOT / "explainer/src/scenes").glob("*.ts"))


def page_of(scene: str) -> str:
    """The page of the site that shows a scene."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        if re.search(rf"^```\{{scene\}} {scene}( \w+)?$", path.read_text(), re.M):
            return path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
    raise AssertionError(f"no page shows the scene {scene}")


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium; the test is skipped where it, playwright or the site is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make site-test")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium; on Debian: apt-get install chromium")
    if not (SITE / "index.html").exists():
        pytest.skip("the site is not built: make site")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


class Watched:
    """A page of which all requests and console messages are kept."""

    def __init__(self, browser: Any, address: str, width: int = 1280, theme: str = "light", **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.add_init_script("globalThis.jbnCalls = []")
        self.page.goto(f"{SITE.as_uri()}/{address}")

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def calls(self) -> list[dict[str, Any]]:
        """Calls of programs since the last time: name, inputs, outputs, with arrays as lists of numbers and words."""
        return self.page.evaluate(
            """() => {
              const word = (x) => Number.isFinite(x) ? x : String(x);
              const plain = (x) => ArrayBuffer.isView(x) ? Array.from(x, word) : Array.isArray(x) ? x.map(plain)
                : typeof x === "object" && x ? Object.fromEntries(Object.entries(x).map(([k, v]) => [k, plain(v)]))
                : typeof x === "boolean" ? Number(x) : word(x);
              return globalThis.jbnCalls.splice(0).map(plain);
            }"""
        )

    def settled(self) -> None:
        """Waits until the elements have drawn what was set last."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
