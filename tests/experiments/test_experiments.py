"""The whole program as a user runs it: end to end, stopped and continued, refused, and as an A/A test."""

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT
from killing import PROGRAM
from rich.console import Console

from experiments import sweep
from experiments.__main__ import main, shown
from experiments.config import SweepConfig, load, vary

SMOKE = "configs/smoke.py"


def start(*arguments, cache, **options):
    """Runs the program in a separate process; these processes share compiled programs in the folder `cache`."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=180)
    return process.returncode, out, err


def stop_after(process, records: Path, lines: int, with_signal: int):
    """Sends the signal as soon as the file has that many records."""
    deadline = time.monotonic() + 120
    while not (records.is_file() and records.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(with_signal)
    return finish(process)


def read_records(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """The smoke config, run once from the command line: (folder, what it printed)."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    code, out, err = finish(start("run", SMOKE, "--out", folder, cache=cache))
    assert (code, err) == (0, "")
    return folder, out


def test_one_command_leaves_a_complete_run_folder_and_says_the_answer(finished):
    folder, out = finished
    names = {p.name for p in folder.iterdir()} - {".lock"}
    assert names >= {"config.json", "env.json", "data.json", "records.jsonl", "result.json"}
    assert names >= {"report.html", "report.md", "summary.csv", "figures", "tables", "arms.json", "engine.json"}
    figures = {p.name for p in (folder / "figures").iterdir()}
    for stem in ("accuracy", "learning_curves", "learning_rate", "percentiles_tanh", "running_statistics", "inputs"):
        assert {f"{stem}.svg", f"{stem}.png", f"{stem}.pdf"} <= figures
    result = json.loads((folder / "result.json").read_text())
    records = read_records(folder)
    trained = [r for r in records if r["phase"] == "train"]
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(told) == 2 * len(trained)  # epochs
    last = {line["run"]: line["val_accuracy"] for line in told if line["step"] == records[0]["steps"][-1]}
    assert sorted(last.values()) == sorted(r["val_accuracy"][-1] for r in trained)
    parameters = {arm: found["parameters"] for arm, found in json.loads((folder / "arms.json").read_text()).items()}
    layers = 64 * 16 + 16 + 16 * 12 + 12 + 12 * 10 + 10
    assert parameters == {"none/tanh": layers, "before/tanh": layers + 2 * 28, "after/tanh": layers + 2 * 28}
    for arm in result["arms"]:
        chosen = [100 * r["test_accuracy"] for r in trained
                  if all(r[key] == arm[key] for key in ("treatment", "learning_rate"))]  # fmt: skip
        assert arm["mean"] == pytest.approx(sum(chosen) / 4)
    assert "tanh: after - before = " in out and "; n = 4: " in out
    assert "\x1b[" not in out, "no colours or progress bars where the output is no terminal"


def test_a_first_round_trains_every_rate_and_what_it_leaves_has_every_seed(finished):
    result, records = json.loads((finished[0] / "result.json").read_text()), read_records(finished[0])
    phases = [r["phase"] for r in records]
    assert phases == sorted(phases, reverse=True), "networks are probed when their rate has been chosen"
    for arm, race in zip(result["arms"], result["race"], strict=True):
        seeds = {}
        for r in records:
            if r["phase"] == "train" and r["treatment"] == arm["treatment"]:
                seeds.setdefault(r["learning_rate"], []).append(r["seed"])
        assert list(seeds) == result["learning_rates"] and len(seeds) == 3
        dropped = {rate for rate, some in seeds.items() if some == [0, 1, 2]}
        assert all(some == [0, 1, 2, 3] for rate, some in seeds.items() if rate not in dropped)
        assert race["dropped"] == [f"rate {rate:g}" for rate in seeds if rate in dropped]
        probed = [(r["learning_rate"], r["seed"]) for r in records
                  if r["phase"] == "probe" and r["treatment"] == arm["treatment"]]  # fmt: skip
        assert probed == [(arm["learning_rate"], seed) for seed in range(len(probed))] != []


def test_a_run_stopped_by_ctrl_c_and_then_killed_goes_on_and_ends_with_the_same_numbers(finished, cache, tmp_path):
    folder = tmp_path / "smoke"
    code, _, err = stop_after(
        start("run", SMOKE, "--out", folder, cache=cache), folder / "records.jsonl", 6, signal.SIGINT
    )
    assert code == 130
    assert "the same command goes on from there" in err and "Traceback" not in err

    stop_after(start("run", SMOKE, "--out", folder, cache=cache), folder / "records.jsonl", 18, signal.SIGKILL)
    # A crash may leave half a record, or a stage of which only a part was written.
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:50])
    assert not (folder / "result.json").exists()

    code, out, err = finish(start("run", SMOKE, "--out", folder, cache=cache))
    assert (code, err) == (0, "")
    assert "9 trainings are there already" in out and "cut off a half-written record" in out
    assert (folder / "result.json").read_bytes() == (finished[0] / "result.json").read_bytes()


def test_a_finished_run_is_not_trained_again_and_another_config_is_refused(finished, capsys):
    folder = finished[0]
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".json", ".jsonl")}
    assert main(["run", SMOKE, "--out", str(folder)]) == 0
    assert "finished already" in capsys.readouterr().out
    assert main(["run", SMOKE, "--out", str(folder), "--training.epochs", "3"]) == 2
    assert "training.epochs is 2 there and 3 here" in capsys.readouterr().err
    assert before == {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".json", ".jsonl")}


def test_the_report_is_a_function_of_the_folder_alone(finished, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("config.json", "env.json", "data.json", "arms.json", "engine.json", "records.jsonl", "result.json"):
        (moved / name).write_bytes((finished[0] / name).read_bytes())
    block = "import sys; sys.modules['jax'] = None; from experiments.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", block, "report", str(moved)], cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (moved / "report.html").read_bytes() == (finished[0] / "report.html").read_bytes()


def test_a_terminal_of_80_columns_shows_every_sentence_whole(finished, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["report", str(finished[0])]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines[:-1])) <= 80  # except for the path at the end
    shown = " ".join(" ".join(lines).split())
    result = json.loads((finished[0] / "result.json").read_text())
    for sentence in [row["sentence"] for row in result["contrasts"]] + result["warnings"]:
        assert sentence in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", SMOKE, "--training.epoch", "3"], "--training.epoch is no option; .*; did you mean --training.epochs"),
        (["run", SMOKE, "--training.epochs", "three"], "--training.epochs: invalid literal .*'three'"),
        (["run", SMOKE, "--training.epochs", "0"], "training.epochs is 0; use at least 1"),
        (["run", SMOKE, "--training.epochs", "2.5"], "--training.epochs: invalid literal .*'2.5'"),
        (["run", SMOKE, "--model.network", "resnet"], r"hidden is \(16, 12\), but resnet has none; leave it out"),
        (["run", SMOKE, "--model.network", "cnn9", "--model.hidden", "100", "100", "100"],
         "arm none/tanh: cnn9 takes images, but digits has vectors; set model.network='mlp', or a set of images"),
        (["run", SMOKE, "--training.classes-per-batch", "7"], "classes_per_batch is 7, with training.batch_size 60"),
        (["run", SMOKE, "--model.placement", "both"], "--model.placement would have no effect, .* use --placements"),
        (["run", SMOKE, "--model.activation=relu"], "--model.activation would have no effect, .* use --activations"),
        (["run", SMOKE, "--model.unit", "original"], "model.unit is 'original', but mlp has none"),
        (["run", SMOKE, "--writers", "tensorbord"], "'tensorbord'.*Expected one of .*'tensorboard'"),
        (["run", SMOKE, "--placements", "none", "befor"], "'befor'.*Expected one of .*'before'"),
        (["run", SMOKE, "--activations", "rellu"], "'rellu'.*Expected one of .*'relu'"),
        (["run", SMOKE, "--sweep.learning-rate-points", "1"], "a grid of one point tunes nothing"),
        (["run", SMOKE, "--sweep.seeds", "1"], "a spread needs at least 2 seeds"),
        (["run", SMOKE, "--sweep.looks", "2", "3"], r"sweep.looks is \(2, 3\); use growing .* end with sweep.seeds"),
        (["run", SMOKE, "--sweep.tuning-seeds", "3"], "an option of older versions; every seed .* set --sweep.seeds"),
        (["run", SMOKE, "--sweep.evaluation-seeds=6"], "--sweep.evaluation-seeds is an option of older versions; "),
        (["run", SMOKE, "--analysis.resamples", "99"], "older versions; leave it out, and set --sweep.seeds for"),
        (["run", SMOKE, "--training.batch-size", "5000"], "batch_size is 5000, but digits has only 1078 training"),
        (["run", SMOKE, "--out", "Makefile/run"], "Makefile/run cannot be written"),
        (["run", "configs/smok.py"], "did you mean configs/smoke.py"),
        (["report", "configs"], "configs is no run folder"),
        (["rum", SMOKE], "'rum' is no command; choose one of run, report, publish, .*; did you mean 'run'"),
        (["run"], "run needs a config; run: python -m experiments run CONFIG.py"),
        (["run", "--out", "x", SMOKE], "--out comes before the config; run: .* run CONFIG.py --out"),
        (["run", SMOKE, "more"], "'more' is one word too many"),
        (["report"], "report needs a run folder; run: python -m experiments report FOLDER"),
        (["publish", "configs", "--too=x"], "--too is no option; .*; did you mean --to"),
        ([], "no command; run: python -m experiments run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_one_line_without_a_traceback(arguments, words, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert re.search(words, printed.err), printed.err
    assert "Traceback" not in printed.err
    assert printed.err.startswith("error: ")
    assert len(printed.err.split("\nusage:")[0].strip().splitlines()) == 1
    assert not (ROOT / "runs" / "smok").exists()


def test_a_config_file_of_an_older_version_is_refused_with_what_replaces_its_fields(tmp_path, capsys):
    path = tmp_path / "old.py"
    path.write_text(
        "from experiments.config import Config, SweepConfig\n"
        'CONFIG = Config("old", sweep=SweepConfig(tuning_seeds=2, evaluation_seeds=6))'
    )
    assert main(["run", str(path)]) == 2
    assert "old.py: sweep.tuning_seeds is a field of older versions; every seed is" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1 and said.endswith("set sweep.seeds\n")


def test_the_progress_bar_grows_by_what_is_expected():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with shown(console) as callbacks:
        progress = sweep.Progress(**callbacks)
        progress.expect(40)
        progress.advance(20)
        progress.stage("none/tanh")
        time.sleep(0.3)  # it is drawn ten times a second
        progress.expect(60)
        time.sleep(0.3)
        progress.note("a race dropped two rates")
    lines = console.file.getvalue()
    assert lines.index("50%") < lines.index("20%") < lines.index("a race dropped two rates")


def test_without_a_terminal_each_task_is_a_line_with_the_time_and_what_is_done():
    console = Console(file=io.StringIO(), width=20)
    with shown(console) as callbacks:
        progress = sweep.Progress(**callbacks)
        progress.stage("measuring")
        progress.expect(40)
        progress.advance(10)
        progress.stage("train none/tanh with a long name")
        progress.note("a race dropped two rates")
    assert console.file.getvalue().splitlines() == [
        "0 s: measuring",
        "0 s, 25% of the epochs known so far: train none/tanh with a long name",
        "a race dropped two rates",
    ]


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["run", SMOKE, "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in dataclasses.fields(SweepConfig):
        assert f"--sweep.{field.name.replace('_', '-')}" in text
    assert "Number of seeds. A finished run goes on from what is there if it is run again with more." in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["run", "report", "publish", "Draws the report of a run again"]),
        (["run"], ["CONFIG.py", "--out", "--sweep.seeds"]),
        (["report"], ["FOLDER"]),
        (["publish"], ["FOLDER", "--to", "experiments/published/"]),
    ],
)
def test_every_command_explains_itself(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert [word for word in words if word not in text] == []


def test_the_same_arm_with_disjoint_seeds_shows_no_difference(tmp_path):
    """Runs the whole pipeline, with its choice of a rate, twice on one arm; the interval must cover 0."""
    config = load(ROOT / SMOKE)
    again = dataclasses.replace(
        config,
        placements=(),
        treatments=(
            vary("once", {"model.placement": "before"}),
            vary("again", {"model.placement": "before"}, first_seed=100),
        ),
        training=dataclasses.replace(config.training, epochs=3),
        sweep=dataclasses.replace(config.sweep, seeds=16),
        analysis=dataclasses.replace(config.analysis, pairs=(("again", "once"),)),
    )
    result = sweep.run(again, tmp_path / "run").result
    assert result is not None
    once, other = result["arms"]
    assert not set(once["seeds"]) & set(other["seeds"])
    assert not set(once["test_accuracy"]["values"]) <= set(other["test_accuracy"]["values"])
    (row,) = result["contrasts"]
    low, high = row["ci"]
    assert row["finding"] == "same_arm_agrees" and low < 0 < high
    assert high - low < 6, "an interval this wide would cover anything"
