"""What is published is that of the committed config, suffices to do the analysis again, and replaces nothing else."""

import csv
import errno
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image
from simulated import description, peak, simulate
from synthetic import SMALL, data, run_folder

from experiments import report
from experiments.__main__ import main
from experiments.analysis.bagging import Scores, bag, contrast
from experiments.analysis.new_data import Right, by_example, for_new_examples
from experiments.analysis.stats import summarize
from experiments.config import AnalysisConfig, Config, ConfigError, DataConfig, SweepConfig, from_json, load
from experiments.report import figures
from experiments.store import record
from experiments.store.publish import EXACT, publish, whole
from experiments.store.publish import PUBLISHED as DEFAULT

PUBLISHED = ROOT / "experiments/published"
FOLDERS = sorted(path.parent for path in PUBLISHED.glob("*/scores.csv"))
SIMULATED = Config(
    "simulated",
    placements=("none", "before", "after"),
    activations=("relu", "tanh"),
    data=DataConfig(name="mnist"),
    sweep=SweepConfig(
        lowest_learning_rate=2.0**-4,
        learning_rate_points=3,
        learning_rate_extension=1,
        weight_decays=(0.0, 0.1),
        seeds=8,
    ),
    analysis=AnalysisConfig(metric="test_accuracy_population"),
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_a_published_run_is_that_of_the_committed_config(folder):
    config = from_json(json.loads((folder / "config.json").read_text()))
    assert config == load(ROOT / "configs" / f"{folder.name}.py")
    env = json.loads((folder / "env.json").read_text())
    assert env["commit"] and not env["dirty"] and env["device"] and env["versions"]["jax"]


def rebuilt(folder):
    """Config, result, and the scores and bits of each arm, from published files alone."""
    config = from_json(json.loads((folder / "config.json").read_text()))
    result = json.loads((folder / "result.json").read_text())
    lines = list(csv.DictReader((folder / "scores.csv").read_text().splitlines()))
    bits, examples, of_row = None, 0, {}
    if (folder / "right.npz").exists():
        with np.load(folder / "right.npz") as found:
            bits, examples = found["bits"], int(found["examples"])
            of_row = {int(row): k for k, row in enumerate(found["row"])}
    scores, right = {}, {}
    for arm, row in zip(config.arms, result["arms"], strict=True):
        mine = [(k, line) for k, line in enumerate(lines) if (line["treatment"], line["context"]) == arm]
        settings = sorted({setting_of(line) for _, line in mine})
        shape = (row["n"], len(settings))
        validation, test, loss = (np.full(shape, np.nan) for _ in range(3))
        packed = np.zeros((*shape, -(-examples // 8)), np.uint8)
        for k, line in mine:
            place = row["seeds"].index(int(line["seed"])), settings.index(setting_of(line))
            validation[place] = 100 * float(line["val_accuracy"])
            loss[place] = float(line["val_loss"] or "inf")
            if k in of_row or bits is None:  # of settings that were dropped there are no bits
                test[place] = 100 * float(line[result["metric"]] or line["test_accuracy"])
            if k in of_row:
                packed[place] = bits[of_row[k]]
        dropped = np.isnan(validation).any(axis=0)  # in the first round
        validation[:, dropped] = test[:, dropped] = np.nan
        scores[arm], right[arm] = Scores(tuple(row["seeds"]), validation, test, loss), Right(packed, examples)
    return config, result, scores, right if bits is not None else None


def setting_of(line):
    return float(line["learning_rate"]), float(line["weight_decay"]), line["decay_scale_bias"] == "True"


def check_that_differences_follow_from_the_scores(folder):
    config, result, scores, right = rebuilt(folder)
    bagged = bag(scores)
    values = right and by_example(bagged, scores, right)
    arms = {str(arm): arm for arm in config.arms}
    for row in result["contrasts"]:
        weights = {arms[name]: weight for name, weight in row["weights"].items()}
        found = contrast(bagged, weights, alpha=row["alpha"])
        assert found.estimate == pytest.approx(row["difference"], abs=1e-9)
        assert found.ci == pytest.approx(row["intervals"][0]["ci"], abs=1e-9)
        if len(row["intervals"]) > 1 and values:
            wide = for_new_examples(bagged, values, weights, alpha=row["alpha"])
            assert wide.ci == pytest.approx(row["intervals"][1]["ci"], abs=1e-9)
            assert wide.ci != found.ci
    assert values or config.data.split_each_seed


@pytest.mark.parametrize("each_seed", [False, True])
def test_what_is_published_suffices_to_compute_every_difference_and_interval_again(tmp_path, monkeypatch, each_seed):
    config = replace(SIMULATED, data=DataConfig(split="each seed")) if each_seed else SIMULATED
    heights = {"none": 90, "before": 93, "after": 94}
    made = simulate(config, lambda arm, setting: heights[arm.treatment] + peak(0)(arm, setting), test=90)
    described = data() | description(config, 90)
    folder = run_folder(tmp_path / "run", config, made=made, finished=False)
    record.write_json(folder / "data.json", described)
    record.finish(folder, summarize(config, made, described))
    monkeypatch.setattr(figures, "draw", lambda *_: [])  # drawing takes seconds
    report.write(folder)
    (folder / "engine.json").write_text("{}")
    to = publish(folder, tmp_path / "published")
    assert (to / "right.npz").exists() != each_seed
    check_that_differences_follow_from_the_scores(to)


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


# Each seed has a test set of its own, so that no bits are published, which a scores.csv without networks would not fit.
OWN_SPLITS = replace(SMALL, data=DataConfig(split="each seed"))


def test_publishing_says_where_it_wrote_and_takes_another_place(tmp_path, capsys, monkeypatch):
    folder = run_folder(tmp_path / "runs" / "synthetic", OWN_SPLITS)
    for name in ("report.md", "summary.csv", "scores.csv", "engine.json"):
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


def test_a_report_that_was_not_written_to_its_end_is_not_published(tmp_path):
    folder = run_folder(tmp_path / "run")
    report.write(folder)
    (folder / "engine.json").write_text("{}")
    record.finish(folder, record.read(folder).result)  # a new result, of which no report is drawn yet
    with pytest.raises(ConfigError, match=r"has no report.md; finish the run, and draw its report with"):
        publish(folder, tmp_path / "published")
    files = {"a.csv": b"", "no folder/b/c": b"", record.LAST_OF_REPORT: b""}
    with pytest.raises(FileNotFoundError):
        record.write_files(folder, files)
    assert (folder / "a.csv").exists() and not (folder / record.LAST_OF_REPORT).exists()


def test_what_was_published_stays_when_it_cannot_be_replaced(tmp_path, monkeypatch):
    folder = run_folder(tmp_path / "run", OWN_SPLITS)
    for name in ("report.md", "summary.csv", "scores.csv", "engine.json"):
        (folder / name).write_text("{}")
    (folder / "tables").mkdir()
    to = publish(folder, tmp_path / "published")
    before = {path: path.read_bytes() for path in to.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (folder / "report.md").write_text("newer")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("shutil.copytree", full)
        publish(folder, tmp_path / "published")
    assert {path: path.read_bytes() for path in to.parent.rglob("*") if path.is_file()} == before
    assert (publish(folder, tmp_path / "published") / "report.md").read_text() == "newer"


def test_publishing_replaces_nothing_but_what_was_published(tmp_path, capsys):
    folder = run_folder(tmp_path / "runs" / "synthetic", OWN_SPLITS)
    for name in ("report.md", "summary.csv", "scores.csv", "engine.json"):
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
