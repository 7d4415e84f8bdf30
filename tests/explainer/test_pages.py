"""The pages around the scenes: by keyboard, with a screen reader, on a phone, in light and dark."""

import re

import pytest

pytest.importorskip("sphinx", reason="the site's requirements are not installed: make site")

from browser import SITE, THEMES, Watched, chromium

from explainer.sphinx_access import CHANGES

KINDS = (
    "index.html",
    "search.html",
    "genindex.html",
    "architecture.html",
    "laboratory.html",
    "story/index.html",
    "reference/index.html",
    "reference/jbn.html",
    "reference/laboratory.html",
    "reference/measures.html",
    "benchmarks/results/correctness.html",
    "experiments/published/digits_placement/report.html",
)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize(("theme", "width"), list(zip(THEMES, (360, 1440), strict=True)))
@pytest.mark.parametrize("page", KINDS)
def test_axe_finds_no_violation_on_a_page_and_it_fits(page, theme, width, browser):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: make site-test")
    with Watched(browser, page, width, theme) as watched:
        watched.page.wait_for_load_state("load")
        assert watched.messages == []
        assert watched.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        found = axe.Axe().run(watched.page)
        assert found.response["violations"] == [], found.generate_report()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change[0].pattern)
def test_a_page_is_changed_once(change):
    if not SITE.exists():
        pytest.skip("the site is not built: make site")
    pattern, better = change
    before = '<aside class="toc-drawer"><pre>' + (SITE / "search.html").read_text()
    once = pattern.sub(better, before)
    assert pattern.sub(better, once) == once


def test_the_changes_still_find_what_they_change():
    """In the theme and in Sphinx, whose newer versions may write other HTML."""
    if not SITE.exists():
        pytest.skip("the site is not built: make site")
    pages = {page: (SITE / page).read_text() for page in KINDS}
    wanted = ('role="heading" aria-level="2"', 'aria-label="All pages"', 'aria-label="On this page"', "sig-line")
    wanted += ('<pre tabindex="0"', 'aria-label="Table"', 'aria-label="Formula"', "<h1>Search</h1>")
    assert [text for text in wanted if not any(text in page for page in pages.values())] == []
    assert not re.search("<dl>\n<dd><em", pages["reference/jbn.html"])
