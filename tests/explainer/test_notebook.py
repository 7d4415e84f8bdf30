"""The notebook runs from top to bottom; scenes take the reader's own data, and refuse what they cannot show."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from browser import ROOT, Watched, chromium

from explainer import notebook
from explainer.report import PLACE, add_to_report

built = pytest.mark.skipif(not notebook.SCRIPTS.exists(), reason="the site is not built: make site")


@built
def test_the_notebook_runs_from_top_to_bottom():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: make site-test")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: make site-test")
    read = nbformat.read(ROOT / "notebooks/batch_norm_seen.ipynb", as_version=4)
    done = nbclient.NotebookClient(read, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    shown = [out for cell in done.cells if cell.cell_type == "code" for out in cell.outputs if "data" in out]
    frames = [out["data"]["text/html"] for out in shown if "text/html" in out["data"]]
    assert len(frames) == 2 and all("<iframe" in frame and "bn-" in frame for frame in frames)


@built
def test_a_scene_shows_the_readers_numbers(tmp_path):
    batch = np.arange(32.0).reshape(8, 4)
    notebook.five_steps(batch, features=["one", "two", "three", "four"]).write(tmp_path / "page.html")
    with chromium() as browser, Watched(browser, "index.html") as watched:
        watched.page.goto((tmp_path / "page.html").as_uri())
        watched.page.wait_for_selector("bn-five-steps figure")
        text = watched.page.locator("bn-five-steps").inner_text()
        assert "three" in text and watched.messages == []
        inputs = watched.calls()[-1]["inputs"]
        np.testing.assert_allclose(inputs["x"], batch.ravel())


@built
def test_a_run_is_drawn_from_its_folder():
    page = notebook.contrasts(ROOT / "experiments/published/digits_aa").page()
    data = json.loads(page.split("globalThis.jbnData = ")[1].split("</script>")[0])
    assert [run["name"] for run in data["published"]["runs"]] == ["digits_aa"]


@built
def test_the_report_of_a_run_gets_the_figure_once(tmp_path):
    folder = shutil.copytree(ROOT / "experiments/published/digits_aa", tmp_path / "digits_aa")
    with pytest.raises(ValueError, match=r"report.html is missing; write it first: python -m experiments report"):
        add_to_report(folder)
    (folder / "report.html").write_text(
        "<!doctype html><p>before</p><!-- interactive --><!-- /interactive --><p>after</p>"
    )
    once = add_to_report(folder).read_text()
    assert add_to_report(folder).read_text() == once
    with chromium() as browser, Watched(browser, "index.html") as watched:
        watched.page.goto((folder / "report.html").as_uri())
        watched.page.wait_for_selector("bn-published figure")
        text = watched.page.locator("body").inner_text()
        assert "digits_aa" in text and text.startswith("before") and text.endswith("after") and watched.messages == []


def test_the_laboratorys_template_has_one_place_for_the_figure():
    text = (ROOT / "experiments/report/templates/report.html.j2").read_text()
    assert len(PLACE.findall(text)) == 1


@pytest.mark.parametrize("wrong", [np.zeros((4, 8)), np.full((8, 4), np.nan)])
def test_a_batch_of_another_shape_or_with_nan_is_refused(wrong):
    with pytest.raises(ValueError, match="pass 8 examples of 4 features"):
        notebook.five_steps(wrong)


def test_an_unknown_scene_is_named():
    with pytest.raises(FileNotFoundError, match="no_such"):
        notebook.scene("no_such")
