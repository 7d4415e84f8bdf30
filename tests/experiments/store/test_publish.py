"""Published results are consistent: the committed config, numbers that follow from the seeds, the rows of the page."""

import json
import re

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image
from synthetic import SMALL, run_folder

from experiments import report
from experiments.__main__ import main
from experiments.config import ConfigError, from_json, load
from experiments.formatting import number, signed
from experiments.store.publish import EXACT, publish, whole
from experiments.store.publish import PUBLISHED as DEFAULT

PUBLISHED = ROOT / "experiments/published"
FOLDERS = sorted(path.parent for path in PUBLISHED.glob("*/result.json"))


def test_some_results_are_published():
    assert {folder.name for folder in FOLDERS} >= {"fashion_activation", "mnist_sigmoid", "small_batches"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_a_published_run_is_that_of_the_committed_config(folder):
    config = from_json(json.loads((folder / "config.json").read_text()))
    assert config == load(ROOT / "configs" / f"{folder.name}.py")
    env = json.loads((folder / "env.json").read_text())
    assert env["commit"] and not env["dirty"] and env["device"] and env["versions"]["jax"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_every_published_mean_and_difference_follows_from_its_seeds(folder):
    result = json.loads((folder / "result.json").read_text())
    config = load(ROOT / "configs" / f"{folder.name}.py")
    values = {}
    for arm in result["arms"]:
        accuracy = np.array(arm["test_accuracy"]["values"])
        assert arm["n"] == len(accuracy) == config.sweep.evaluation_seeds
        np.testing.assert_allclose([arm["mean"], arm["sd"]], [accuracy.mean(), accuracy.std(ddof=1)], rtol=1e-9)
        values[arm["treatment"], arm["context"]] = accuracy
    for row in result["comparisons"]:
        difference = values[row["a"], row["context"]] - values[row["b"], row["context"]]
        assert row["difference"] == pytest.approx(difference.mean(), abs=1e-9)
        assert row["ci"][0] <= row["difference"] <= row["ci"][1]
    assert all(row["verdict"] for row in result.get("published", []))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_the_page_of_results_says_what_the_published_result_says(folder):
    """Checks each row of the page: context and contrast, n, difference with its interval."""
    result = json.loads((folder / "result.json").read_text())
    said = [
        line
        for line in (PUBLISHED / "README.md").read_text().splitlines()
        if line.startswith("|") and f"]({folder.name}/report" in line
    ]
    assert said, f"no row of the page links to {folder.name}"
    rows = {
        f"{signed(r['difference'])} [{number(r['ci'][0])}, {number(r['ci'][1])}] pp": r for r in result["comparisons"]
    }
    for line in said:
        found = re.findall(r"[+-]?\d+\.\d+ \[-?\d+\.\d+, -?\d+\.\d+\] pp", line)
        assert found, line
        for text in found:
            assert text in rows, f"{text} is no difference of {folder.name}"
            assert f"| {rows[text]['n']} |" in line


@pytest.mark.parametrize("page", [ROOT / "README.md", PUBLISHED / "README.md"], ids=["README", "page"])
def test_the_answer_is_that_of_the_published_digits(page):
    """Means and standard deviations of the arms, and the difference with its interval, for each activation."""
    result = json.loads((PUBLISHED / "digits_placement/result.json").read_text())
    table = page.read_text().partition("| activation |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["relu", "tanh", "sigmoid"]
    arms = {(a["treatment"], a["context"]): f"{a['mean']:.2f} ± {a['sd']:.2f}" for a in result["arms"]}
    contrasts = {(r["a"], r["b"], r["context"]): r for r in result["comparisons"]}
    for activation, *means, difference, verdict in rows:
        assert means == [arms[treatment, activation] for treatment in ("none", "before", "after")]
        found = contrasts["after", "before", activation]
        low, high = map(number, found["ci"])
        assert difference == f"{signed(found['difference'])} [{low}, {high}] pp"
        assert verdict.split()[0] in found["verdict"]


def test_publishing_keeps_what_is_small_and_refuses_what_is_unfinished(tmp_path):
    folder = run_folder(tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"has no .*; finish the run, and draw its report with: python -m experiments"
    ):
        publish(folder, tmp_path / "published")
    report.write(folder)
    for name in ("arms.json", "engine.json"):
        (folder / name).write_text("{}")
    to = publish(folder, tmp_path / "published")
    assert to.parent == tmp_path / "published"
    assert (to / "report.md").read_bytes() == (folder / "report.md").read_bytes()
    assert not (to / "records.jsonl").exists()
    seen: set[int] = set()
    for path in (to / "figures").iterdir():
        with Image.open(path) as small, Image.open(folder / "figures" / path.name) as large:
            assert small.size == large.size
            off = np.abs(np.asarray(small.convert("RGB"), int) - np.asarray(large.convert("RGB"), int))
            assert off.mean() < 1 and off.max() <= 24
            kept, there = whole(small), whole(large)
            for colour in (int(c[1:], 16) for c in EXACT):
                assert ((kept == colour) >= (there == colour)).all()
                seen |= {colour} if (there == colour).any() else set()
        assert path.stat().st_size < 0.7 * (folder / "figures" / path.name).stat().st_size
    assert len(seen) >= 5  # none, before and after; training and test data
    text = (to / "report.md").read_text()
    assert {f"figures/{p.name}" for p in (to / "figures").iterdir()} >= set(re.findall(r"figures/\w+\.png", text))


def test_publishing_says_where_it_wrote_and_takes_another_place(tmp_path, capsys, monkeypatch):
    folder = run_folder(tmp_path / "runs" / "synthetic", SMALL)
    for name in ("report.md", "summary.csv", "engine.json"):
        (folder / name).write_text("{}")
    for name in ("tables", "figures"):
        (folder / name).mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for _ in range(2):  # the second time replaces what was published
        assert main(["publish", str(folder), "--to", "results"]) == 0
        assert capsys.readouterr().out == f"published: {elsewhere / 'results' / 'synthetic'}\n"
    assert (elsewhere / "results" / "synthetic" / "result.json").read_bytes() == (folder / "result.json").read_bytes()
    assert PUBLISHED == DEFAULT
    monkeypatch.setattr("experiments.store.publish.PUBLISHED", tmp_path / "checkout")
    assert main(["publish", str(folder)]) == 0
    assert capsys.readouterr().out == f"published: {tmp_path / 'checkout' / 'synthetic'}\n"


def test_publishing_replaces_nothing_but_what_was_published(tmp_path, capsys):
    folder = run_folder(tmp_path / "runs" / "synthetic", SMALL)
    for name in ("report.md", "summary.csv", "engine.json"):
        (folder / name).write_text("{}")
    (folder / "tables").mkdir()
    mine = tmp_path / "home" / "synthetic"
    mine.mkdir(parents=True)
    (mine / "thesis.tex").write_text("my life's work")
    published = publish(folder, tmp_path / "published")
    for source, to in ((folder, tmp_path / "home"), (folder, folder.parent), (published, published.parent)):
        before = {path: path.read_bytes() for path in (to / "synthetic").rglob("*") if path.is_file()}
        assert main(["publish", str(source), "--to", str(to)]) == 2
        assert "nothing was changed; choose another folder with --to FOLDER" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in (to / "synthetic").rglob("*") if path.is_file()} == before
