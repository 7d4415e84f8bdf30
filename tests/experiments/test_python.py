"""experiments.run and experiments.load: what they return is what the report writes and the command line prints."""

import csv
import dataclasses
import math
import os
import subprocess
import sys

import pandas as pd
import pytest
import synthetic
from helpers import ROOT
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from small_arms import TINY

import experiments
from experiments import python, report
from experiments.__main__ import main
from experiments.config import ConfigError, DataConfig, Published, vary
from experiments.report import exports
from experiments.report.table import escape_markdown
from experiments.store import record
from experiments.store.publish import publish
from experiments.store.reported import SCORES

CONFIG = dataclasses.replace(
    TINY,
    question="Is after better?",
    placements=("before", "after"),
    training=dataclasses.replace(TINY.training, epochs=2),
    probes=dataclasses.replace(TINY.probes, seeds=1),
)
PUBLISHED = sorted(path.parent for path in experiments.PUBLISHED.glob("*/result.json"))
TABLES = ("arms", "contrasts", "settings", "power", "by_statistics", "published", "shares", "race", "mean_logit")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that was stopped by Ctrl-C after the first arm was recorded: what was raised, and the folder."""
    folder = tmp_path_factory.mktemp("python") / "runs" / "tiny"
    append = record.append

    def then_stop(*arguments):
        append(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "append", then_stop)
        with pytest.raises(KeyboardInterrupt):
            experiments.run(CONFIG, folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def seen_unfinished(interrupted):
    return experiments.load(interrupted)


@pytest.fixture(scope="module")
def results(seen_unfinished):
    return experiments.run(CONFIG, seen_unfinished.folder, quiet=True)


@pytest.fixture(scope="module")
def invented(tmp_path_factory):
    """A finished run of many tables, with names that would be HTML, and its report."""
    config = dataclasses.replace(
        synthetic.SMALL,
        placements=("none",),
        treatments=(vary("<i>after</i> & co", {"model.placement": "after"}),),
        analysis=dataclasses.replace(
            synthetic.SMALL.analysis,
            pairs=(("<i>after</i> & co", "none"),),
            published=(Published("relu: <i>after</i> & co - none", 1.5, "<u>A</u> & B, 2015", n=2),),
        ),
    )
    folder = synthetic.run_folder(tmp_path_factory.mktemp("invented") / "run", config)
    report.write(folder)
    return experiments.load(folder)


def test_an_interrupt_keeps_what_is_trained_and_says_how_to_go_on(seen_unfinished):
    assert (seen_unfinished.state, seen_unfinished.trainings) == ("interrupted", 6)
    assert "6 trainings are there" in seen_unfinished.answer
    assert f'experiments.run(config, out="{seen_unfinished.folder}")' in seen_unfinished.answer
    assert len(seen_unfinished.scores) == 6 and "learned" not in seen_unfinished.scores
    assert list(seen_unfinished.tables) == ["scores"] and len(seen_unfinished.figures) == 0
    assert "6 trainings are there" in seen_unfinished._repr_html_() and "interrupted" in repr(seen_unfinished)
    assert seen_unfinished.report is None and seen_unfinished.config == CONFIG
    with pytest.raises(
        ConfigError, match=r"is not finished \(interrupted\): 6 trainings are there, which .scores has; go"
    ):
        _ = seen_unfinished.contrasts


def test_the_same_call_goes_on_and_then_trains_nothing(results, seen_unfinished, capsys):
    assert results.state == "finished" and results.trainings == 14, "2 arms x 2 rates x 3 seeds, and 2 probed"
    both = results.scores.merge(seen_unfinished.scores)
    assert len(both) == 6, "what was there has not been trained again"
    before = {path: path.stat().st_mtime_ns for path in results.folder.iterdir() if path.name != ".lock"}
    again = experiments.run(CONFIG, str(results.folder))
    assert "is finished already; nothing was trained" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before and again.raw == results.raw
    experiments.run(CONFIG, results.folder, quiet=True)
    assert capsys.readouterr().out == ""


def test_a_report_that_is_older_than_the_result_or_missing_is_written_anew(results, monkeypatch):
    written, page = [], results.folder / "report.html"
    monkeypatch.setattr(report, "write", written.append)
    seconds = page.stat().st_mtime
    os.utime(page, (seconds, (results.folder / "result.json").stat().st_mtime - 1))
    experiments.run(CONFIG, results.folder, quiet=True)
    page.rename(page.with_suffix(".moved"))
    experiments.run(CONFIG, results.folder, quiet=True)
    page.with_suffix(".moved").rename(page)
    os.utime(page, (seconds, seconds))
    experiments.run(CONFIG, results.folder, quiet=True)
    assert written == [results.folder] * 2


def test_the_answer_is_what_the_command_line_prints(results, capsys, monkeypatch):
    monkeypatch.setattr(report, "write", lambda folder: [folder / "report.html"])
    assert main(["report", str(results.folder)]) == 0
    assert capsys.readouterr().out == f"{results.answer}\nreport: {results.report}\n"


def test_each_table_is_an_attribute_that_says_what_it_holds(results):
    assert set(TABLES) == set(exports.rows(results.raw.result))
    for name in (*TABLES, "scores"):
        attribute = getattr(type(results), name)
        assert name in dir(results) and attribute.__doc__
        assert isinstance(getattr(results, name), pd.DataFrame)
    assert {"answer", "config", "figures", "folder"} <= set(dir(results))


def check_frames(results):
    """Every data frame has the numbers of its CSV file, and there is none without a file."""
    files = {path.stem: path for path in (results.folder / "tables").glob("*.csv")}
    files["scores"] = results.folder / "scores.csv"
    assert results.tables.keys() == files.keys()
    for name, path in files.items():
        check_frame(results.tables[name], path)
        pd.testing.assert_frame_equal(results.tables[name], getattr(results, name))
    check_frame(results.arms, results.folder / "summary.csv")


def check_frame(frame, path):
    with open(path, encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(frame) == len(lines) and set(frame.columns) == set(lines[0])
    assert list(frame.index) == list(range(len(lines)))
    for name in frame.columns:
        written, column = [line[name] for line in lines], frame[name]
        for text, value in zip(written, column, strict=True):
            if text == "" and not isinstance(value, str):
                assert pd.isna(value), (path, name)
            elif is_numeric_dtype(column.dtype) and not is_bool_dtype(column.dtype):
                assert float(text) == value, (path, name)
            else:
                assert text == str(value), (path, name)
        if any(written) and all(number(text) for text in written if text):
            assert is_numeric_dtype(column.dtype), f"{name} holds numbers"
        if set(written) <= {"True", "False", ""} and any(written):
            assert is_bool_dtype(column.dtype), f"{name} holds truth values"


def number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def check_printed(results):
    """The tables as printed are those of the Markdown files."""
    files = {path.stem: path for path in (results.folder / "tables").glob("*.md")}
    assert files.keys() <= results.printed.keys()
    for name, path in files.items():
        frame = results.printed[name]
        head, _, *lines = path.read_text(encoding="utf-8").splitlines()
        rows = [frame.columns, *frame.itertuples(index=False)]
        for line, row in zip([head, *lines], rows, strict=True):
            assert line == f"| {' | '.join(escape_markdown(' '.join(cell.split())) for cell in row)} |"


def test_the_frames_of_a_run_hold_the_numbers_of_its_files(results):
    check_frames(results)
    check_printed(results)


def test_the_frames_of_many_tables_hold_the_numbers_of_their_files(invented):
    assert {"published", "mean_logit"} <= invented.tables.keys()
    check_frames(invented)
    check_printed(invented)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_a_published_folder_loads_with_the_numbers_of_its_files(folder):
    results = experiments.load(folder)
    check_frames(results)
    check_printed(results)
    assert results.state == "finished" and results.report == folder / "report.md"
    assert results.trainings == len(results.scores)
    assert {name: picture.files for name, picture in results.figures.items()} == {
        path.stem: {"png": path.read_bytes()} for path in (folder / "figures").glob("*.png")
    }
    named = [name for name in results.figures if f"(figures/{name}.png)" in (folder / "report.md").read_text()]
    assert named == list(results.figures), "all of them, and in the order of the report"
    first = next(iter(results.figures.values()))
    assert first.figure is None and first.src() in results._repr_html_()


def test_a_run_that_was_just_published_loads_as_the_run_itself(results, tmp_path):
    copy = experiments.load(publish(results.folder, tmp_path))
    assert copy.tables.keys() == results.tables.keys() and list(copy.figures) == list(results.figures)
    for name, frame in results.tables.items():
        pd.testing.assert_frame_equal(copy.tables[name], frame)


def test_the_figures_are_those_that_the_report_writes(results):
    assert set(results.figures) == {path.stem for path in (results.folder / "figures").glob("*.svg")}
    assert next(iter(results.figures)) == "differences"
    for name, picture in results.figures.items():
        for ending, content in picture.files.items():
            assert content == (results.folder / "figures" / f"{name}.{ending}").read_bytes(), (name, ending)
        assert picture.figure is not None and picture.title and picture.caption
        assert picture.src() in picture._repr_html_() and picture._repr_png_()[:4] == b"\x89PNG"
    with pytest.raises(KeyError, match="no figure 'difference'; choose one of differences, "):
        _ = results.figures["difference"]


def test_what_a_notebook_shows_holds_the_answer_the_table_and_the_figure(results):
    page = results._repr_html_()
    (row,) = results.raw.result["contrasts"]
    assert row["verdict"] in page and "Is after better?" in page
    assert results.printed["contrasts"]["difference (pp)"][0] in page
    assert results.figures["differences"].src() in page


def test_what_a_notebook_shows_escapes_names_questions_and_sources(invented):
    page = invented._repr_html_()
    assert "Is &lt;b&gt;before&lt;/b&gt; better" in page and "&lt;i&gt;after&lt;/i&gt; &amp; co" in page
    assert "&lt;u&gt;A&lt;/u&gt; &amp; B" in page
    assert not any(tag in page for tag in ("<b>", "<i>", "<u>", "<script"))
    assert "<i>" not in invented.figures["differences"]._repr_html_()
    assert "<i>" not in invented.contrasts.to_html()


def test_changing_a_frame_changes_no_other(results):
    changed = results.contrasts
    changed.loc[:, "difference"] = 0.0
    assert (results.contrasts["difference"] != 0).all()


def test_a_folder_without_trainings_has_scores_of_no_rows(tmp_path):
    with record.opened(tmp_path / "run", CONFIG, "cpu x 2"):
        seen = experiments.load(tmp_path / "run")
        assert seen.state == "being trained" and "another process trains the rest" in seen.answer
    seen = experiments.load(tmp_path / "run")
    assert (seen.state, seen.trainings, len(seen.scores)) == ("interrupted", 0, 0)
    assert list(seen.scores.columns) == list(SCORES)


def test_a_folder_that_is_no_run_is_refused_with_what_may_be_meant(results, tmp_path):
    runs = results.folder.parent
    for given, said in (
        (runs / "tiny2", f"there is no folder {runs / 'tiny2'}; did you mean {results.folder}?"),
        (runs, f"{runs} holds runs and is none itself; give one of them, such as {results.folder}"),
        (results.folder / "figures", r"is no run folder \(it has no config.json\); give a run folder"),
        (ROOT / "configs/smoke.py", r"smoke.py is a file \(a config is trained by experiments.run\); give the run"),
        (results.report, "report.html is a file; give the run folder"),
        ("nothing", "there is no folder nothing in .*; give a run folder, such as runs/mine"),
    ):
        with pytest.raises(ConfigError, match=said):
            experiments.load(given)


def test_scores_that_were_damaged_are_refused(results, tmp_path):
    folder = publish(results.folder, tmp_path)
    text = (folder / "scores.csv").read_text()
    for damaged, said in (
        (text.replace("True", "Yes"), "holds 'Yes', which is not True or False"),
        (text.replace("val_loss", "loss"), "has no column 'val_loss'"),
        (text.replace("0.05", "five"), "is no table of scores"),
    ):
        (folder / "scores.csv").write_text(damaged)
        with pytest.raises(ConfigError, match=rf"scores.csv {said}.*; restore it"):
            _ = experiments.load(folder).scores
    (folder / "scores.csv").unlink()
    with pytest.raises(ConfigError, match=r"scores.csv cannot be read"):
        _ = experiments.load(folder).scores


def test_a_config_may_be_a_path_and_nothing_else(results, monkeypatch):
    taken = []
    monkeypatch.setattr(
        python, "_trained", lambda config, folder, progress: taken.append((config, folder)) or results.raw
    )
    monkeypatch.setattr(python, "_outdated", lambda folder: False)
    for path in (ROOT / "configs/smoke.py", str(ROOT / "configs/smoke.py")):
        experiments.run(path)
    assert [(config.name, str(folder)) for config, folder in taken] == [("smoke", "runs/smoke")] * 2
    with pytest.raises(ConfigError, match=r"no config at .*smoky.py; did you mean .*smoke.py"):
        experiments.run(ROOT / "configs/smoky.py")
    with pytest.raises(ConfigError, match="config is of the type dict; pass a Config, or the path of a file"):
        experiments.run({"name": "mine"})


def test_a_folder_of_another_config_is_refused_in_words_of_python(results):
    with pytest.raises(ConfigError, match=r"belongs to another config.*choose another folder with out=FOLDER"):
        experiments.run(dataclasses.replace(CONFIG, data=DataConfig(split="one")), results.folder, quiet=True)


def test_a_run_says_when_jax_had_started_without_a_device_for_each_core(results, monkeypatch, capsys):
    monkeypatch.setattr("experiments.training.devices.idle_cores", lambda: 3)
    experiments.run(CONFIG, results.folder)
    assert "so that 3 of the CPU cores have no device of their own" in capsys.readouterr().out


def test_importing_the_laboratory_imports_neither_jax_nor_pandas_and_reading_a_run_no_jax():
    code = """
import sys, experiments
assert {"run", "load", "Results", "PUBLISHED"} <= set(dir(experiments))
heavy = {"jax", "pandas", "matplotlib", "rich", "pydantic", "numpy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
results = experiments.load(experiments.PUBLISHED / "digits_aa")
results.contrasts, results.scores, results.figures, results._repr_html_(), results.printed
assert "jax" not in sys.modules and "flax" not in sys.modules
try:
    experiments.runs
except AttributeError as error:
    assert "no attribute 'runs'" in str(error)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
