"""The whole site: it asks nothing of a network, is small, paints fast, and every link leads somewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import SCENES, SITE, THEMES, WIDTHS, Watched, chromium, page_of

PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html")) if SITE.exists() else []
STORY = [page for page in PAGES if page.startswith("story/")] + ["index.html"]
BYTES, LIMIT = 1e6, 3e6
"""A page with all that it loads: what we aim at in the story, and what no page may exceed."""

pytestmark = pytest.mark.skipif(not PAGES, reason="the site is not built: make site")


class Page(HTMLParser):
    """The links, names and loaded files of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = {key: value or "" for key, value in attrs}
        self.names |= {of[key] for key in ("id", "name") if key in of}
        if tag == "a" and "href" in of:
            self.links.append(of["href"])
        if tag in ("script", "img", "source", "iframe") and "src" in of:
            self.loaded.append(of["src"])
        if tag == "link" and of.get("rel") in ("stylesheet", "icon", "preload") and "href" in of:
            self.loaded.append(of["href"])


@pytest.fixture(scope="module")
def pages() -> dict[str, Page]:
    return {name: Page(SITE / name) for name in PAGES}


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def target(page: str, link: str) -> Path:
    return (SITE / page).parent / unquote(urlsplit(link).path)


def test_every_link_and_anchor_leads_somewhere(pages):
    broken = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link in ("", "#"):
                continue
            path = target(name, link).resolve() if parts.path else (SITE / name).resolve()
            if not path.exists():
                broken.append(f"{name}: {link}")
            elif parts.fragment and path.suffix == ".html":
                other = pages.get(path.relative_to(SITE.resolve()).as_posix())
                # A scene's state stands in the address, too: it is no anchor.
                if other and unquote(parts.fragment) not in other.names and "=" not in parts.fragment:
                    broken.append(f"{name}: {link}")
    assert broken == []


def test_no_page_loads_from_elsewhere(pages):
    assert [f"{name}: {url}" for name, page in pages.items() for url in page.loaded if urlsplit(url).scheme] == []
    for path in [*SITE.rglob("*.css"), *SITE.rglob("*.js")]:
        found = re.findall(
            r"(?:@import|url\(|fetch\(|import\()\s*[\"']?(https?:[^\"')]+)", path.read_text(errors="replace")
        )
        assert found == [], f"{path.relative_to(SITE)} loads {found}"


def test_pages_are_small(pages):
    sizes = {}
    for name, page in pages.items():
        loaded = {target(name, url).resolve() for url in page.loaded if not urlsplit(url).scheme}
        sizes[name] = (SITE / name).stat().st_size + sum(path.stat().st_size for path in loaded if path.is_file())
    assert {name: size for name, size in sizes.items() if size > LIMIT} == {}
    assert {name: sizes[name] for name in STORY if sizes[name] > BYTES} == {}


@pytest.mark.parametrize("page", STORY)
def test_a_page_paints_in_less_than_a_second(page, browser):
    with Watched(browser, page) as watched:
        paint = watched.page.evaluate(
            """() => new Promise((done) => new PerformanceObserver((list) => {
              const first = list.getEntriesByName("first-contentful-paint")[0];
              if (first) done(first.startTime);
            }).observe({ type: "paint", buffered: true }))"""
        )
        print(f"{page}: first paint after {paint:.0f} ms")
        assert paint < 1000


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_first_page_fits_and_says_nothing(width, theme, browser):
    with Watched(browser, "index.html", width, theme) as watched:
        watched.page.wait_for_load_state("load")
        assert watched.messages == []
        assert watched.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert [url for url in watched.requests if not url.startswith("file:")] == []


def test_the_search_finds_offline(browser):
    with Watched(browser, "search.html?q=momentum") as watched:
        watched.page.wait_for_selector("#search-results li", timeout=10_000)
        assert [url for url in watched.requests if not url.startswith("file:")] == []


@pytest.mark.parametrize("scene", SCENES)
def test_with_reduced_motion_work_shows_its_last_picture_only(scene, browser):
    with Watched(browser, page_of(scene), reduced_motion="reduce") as watched:
        element = watched.page.locator(f"bn-{scene.replace('_', '-')}").first
        button = element.locator("button[name=work]")
        if button.count() == 0:
            pytest.skip("the scene does no work")
        before = element.locator("figure").first.inner_html()
        button.click()
        seen = []
        for _ in range(4):
            watched.page.wait_for_timeout(50)
            seen.append(element.evaluate("(scene) => [scene.working, scene.querySelector('figure').innerHTML]"))
        during = {figure for working, figure in seen if working}
        watched.page.wait_for_function(
            "(tag) => !document.querySelector(tag).working", arg=f"bn-{scene.replace('_', '-')}", timeout=60_000
        )
        watched.settled()
        assert element.locator("figure").first.inner_html() != before
        assert len(during) <= 1, "the figure moves"
        assert watched.messages == []
