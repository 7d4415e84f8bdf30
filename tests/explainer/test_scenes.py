"""Every scene in a browser: as it opens, at each width and theme; each control by keyboard gives what jax gives."""

from __future__ import annotations

import re
from typing import Any

import jax
import pytest
from browser import SCENES, THEMES, WIDTHS, Watched, chromium, page_of
from in_node import assert_close
from plain import like

from explainer.programs import collect


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def programs():
    return {f"{scene}.{name}": program for scene, of in collect().items() for name, program in of.items()}


def tag(scene: str) -> str:
    return f"bn-{scene.replace('_', '-')}"


def compare(calls: list[dict[str, Any]], programs: dict[str, Any], most: int = 4) -> int:
    """Each call (the last ones, where there are many) against jax; how many were compared."""
    for call in calls[-most:]:
        program = programs[call["program"]]
        if program.unstable:
            continue
        result = jax.jit(program.function)(**like(program.arguments, call["inputs"]))
        assert_close(like(result, call["outputs"]), jax.device_get(result), program.tolerance, floor=2e-7)
    return len(calls[-most:])


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scene", SCENES)
def test_a_scene_opens_without_a_message_or_a_request_and_fits(scene, width, theme, browser):
    with Watched(browser, page_of(scene), width, theme) as watched:
        watched.page.wait_for_selector(f"{tag(scene)} figure")
        watched.settled()
        assert watched.messages == []
        assert [url for url in watched.requests if not url.startswith("file:")] == []
        wide = watched.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"the page is {wide} pixels wider than the window"
        figure = watched.page.locator(f"{tag(scene)} figure").first
        assert len(figure.get_attribute("aria-label") or "") > 20


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("scene", SCENES)
def test_axe_finds_no_violation(scene, theme, browser):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: make site-test")
    with Watched(browser, page_of(scene), 768, theme) as watched:
        watched.page.wait_for_selector(f"{tag(scene)} figure")
        found = axe.Axe().run(watched.page, context=tag(scene))
        assert found.response["violations"] == [], found.generate_report()


KEYS = ("End", "Home", "ArrowRight", "ArrowRight", "ArrowLeft")


@pytest.mark.parametrize("scene", SCENES)
def test_each_control_by_keyboard_gives_what_jax_gives(scene, browser, programs):
    with Watched(browser, page_of(scene)) as watched:
        page = watched.page
        page.wait_for_selector(f"{tag(scene)} figure")
        compared = compare(watched.calls(), programs)
        controls = page.locator(f"{tag(scene)} .bn-controls").locator("input, select, button")
        names = controls.evaluate_all("(all) => all.map((one) => [one.type, one.name, one.value])")
        assert len({name for _, name, _ in names} - {"work", "reset"}) <= 3, "a scene has at most three controls"
        for place, (kind, name, _) in enumerate(names):
            if name in ("work", "reset"):
                continue
            control = controls.nth(place)
            control.focus()
            addresses = {page.evaluate("location.hash")}
            for key in {"range": KEYS, "radio": ("Space",), "select-one": ("ArrowDown",)}.get(kind, ("Enter",)):
                page.keyboard.press(key)
                watched.settled()
                compared += compare(watched.calls(), programs)
                addresses.add(page.evaluate("location.hash"))
            if kind == "range":
                assert len(addresses) > 2, f"{name} does not move"
                assert re.search(r"\w", control.get_attribute("aria-valuetext") or "")
        work = page.locator(f"{tag(scene)} button[name=work]")
        if work.count():
            work.focus()
            page.keyboard.press("Enter")
            called_or_done = "(tag) => globalThis.jbnCalls.length > 1 || !document.querySelector(tag).working"
            page.wait_for_function(called_or_done, arg=tag(scene), timeout=60_000)
            page.keyboard.press("Enter")  # stops it, where it goes on
            compared += compare(watched.calls()[:2], programs)
        assert watched.messages == []
        assert compared > 0 or not collect().get(scene), "no program was called"


@pytest.mark.parametrize("scene", SCENES)
def test_without_script_the_default_figure_stands_there(scene, browser):
    with Watched(browser, page_of(scene), java_script_enabled=False) as watched:
        figure = watched.page.locator(f"{tag(scene)} figure").first
        box = figure.bounding_box()
        assert box and box["height"] > 100 and box["width"] > 250
        assert figure.locator("svg, table").count() > 0


@pytest.mark.parametrize("scene", SCENES)
def test_the_address_keeps_the_state(scene, browser):
    with Watched(browser, page_of(scene)) as watched:
        page = watched.page
        page.wait_for_selector(f"{tag(scene)} figure")
        control = page.locator(f"{tag(scene)} .bn-controls").locator("input[type=range], input[type=radio]").last
        if control.count() == 0:
            pytest.skip("the scene has neither a slider nor radio buttons")
        control.focus()
        page.keyboard.press("Space" if control.get_attribute("type") == "radio" else "Home")
        watched.settled()
        finding, address = page.locator(f"{tag(scene)} .bn-finding").inner_text(), page.url
        with Watched(browser, address.rsplit("/_site/", 1)[1]) as again:
            again.page.wait_for_selector(f"{tag(scene)} figure")
            again.settled()
            assert again.page.locator(f"{tag(scene)} .bn-finding").inner_text() == finding
