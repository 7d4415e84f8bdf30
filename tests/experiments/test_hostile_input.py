"""Any command line, and any damage to the files of a run, is either accepted or gives a one-line error."""

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from helpers import ROOT
from hostile import ODD, command_lines, places
from synthetic import SMALL, run_folder

from experiments import sweep
from experiments.__main__ import main
from experiments.analysis.plan import plan
from experiments.config import ConfigError
from experiments.report import figures
from experiments.store import record
from experiments.training import processes
from experiments.training.fingerprint import describe

SMOKE = str(ROOT / "configs" / "smoke.py")
TINY = """
from experiments.config import Config, ModelConfig, SweepConfig, TrainingConfig
CONFIG = Config(
    name="tiny",
    placements=("before",),
    activations=("tanh",),
    model=ModelConfig(hidden=(5,)),
    training=TrainingConfig(batch_size=10, epochs=2),
    sweep=SweepConfig(learning_rate_points=2, seeds=2),
)
"""


@pytest.fixture(scope="module")
def until_training(tmp_path_factory):
    """A sweep counts as accepted once its training would begin; no image sets are available."""

    def run(config, folder, progress, workers):
        describe(config, sweep.load(config.data, first_seed=config.sweep.first_seed))
        assert plan(config, [], config.sweep.seeds).missing
        raise ConfigError("accepted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "run", run)
        patch.setattr(processes, "join", lambda cluster: None)  # would wait for minutes for others
        patch.setenv("JBN_DATA", str(tmp_path_factory.mktemp("mirror")))
        patch.setenv("JBN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A finished run, and a counter that numbers its copies."""
    folder = run_folder(tmp_path_factory.mktemp("runs") / "run", SMALL)
    engine = {"steps": "scan", "lanes": "vmap", "milliseconds per step": {}}
    record.write_json(folder / "engine.json", {"mlp": engine})
    return folder, itertools.count()


def said(capsys):
    """The error message: one line without a traceback."""
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error, error
    return error


@hypothesis.settings(
    max_examples=100, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], database=None
)
@hypothesis.given(command_lines())
def test_a_command_line_is_accepted_or_refused_in_one_line(until_training, tmp_path_factory, capsys, arguments):
    config = tmp_path_factory.getbasetemp() / "tiny.py"
    config.write_text(TINY)
    assert main(["run", str(config), *arguments]) == 2
    said(capsys)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--sweep.learning-rate-factor 1e200", "sweep.learning_rate_factor is 1e.200; use a number that float32"),
        ("--sweep.learning-rate-factor 1e20", "the grid of .* goes from .* within 1e-30 and 1e30"),
        ("--sweep.lowest-learning-rate 1e-300", "the grid of .* goes from .* within 1e-30 and 1e30"),
        ("--sweep.learning-rate-factor 1.00000001", "use a value above 1"),
        (
            "--sweep.learning-rate-factor nan",
            "^error: SweepConfig.learning_rate_factor is nan; input should be",
        ),
        ("--sweep.first-seed 99999999999", "sweep.first_seed is 99999999999; use a whole number of at most"),
        ("--sweep.first-seed 2147483645", "sweep.first_seed is 2147483645; use a whole number from 0 to 2147483644"),
        ("--sweep.seeds 2000000000", "asks for up to 6,000,000,000 trainings .* use at most 100,000"),
        ("--data.split-seed 4294967296", "data.split_seed is 4294967296; use a whole number of at most 2147483647"),
        ("--data.validation-fraction 0.001", "leave of 1797 examples a part with fewer than the 10 classes"),
        ("--data.test-fraction 0.001", "leave of 1797 examples a part with fewer than the 10 classes"),
        ("--data.validation-fraction 0.9 --data.test-fraction 0.0999", "a part with fewer than the 10 classes"),
        ("--analysis.alpha 1e-300", "analysis.alpha is 1e-300; use a level such as 0.05, at least 1e-6"),
        ("--sweep.learning-rate-extension 2000000000", "2000000000 more at either end goes from 1e-6.* to 1e6"),
        ("--sweep.looks 2 3", r"sweep.looks is \(2, 3\); use growing numbers of seeds from 2 up that end with"),
        ("--analysis.contrasts x", "--analysis.contrasts cannot be set here; edit it in .*smoke.py"),
        ("--probes.eigenvalues 2000", "probes.eigenvalues is 2000, but the network has 1,374 parameters"),
        (
            "--model.hidden 2000000000",
            r"has 150,000,000,010 parameters; .* GB; choose a smaller model.hidden",
        ),
        ("--training.epochs 2000000000", "which are 34,000,000,000 steps; use fewer, for at most 2,147,483,647 steps"),
        ("--model.epsilon 1e39", "model.epsilon is 1e.39; use a number that float32 holds"),
        ("--question \udcff", r"question is '\?', where the \? is no text in UTF-8"),
        ("--training.epohcs 3", "--training.epohcs is no option; .*; did you mean --training.epochs"),
        ("--treatments x", "--treatments cannot be set here; edit it in .*smoke.py"),
        ("--training.epochs", "Missing value for argument '--training.epochs'"),
    ],
)
def test_what_a_config_can_declare_has_limits_that_are_said(until_training, capsys, flags, words):
    assert main(["run", SMOKE, *flags.split()]) == 2
    assert re.search(words, error := said(capsys)), error


FILES = ("config.json", "env.json", "data.json", "arms.json", "engine.json", "records.jsonl", "result.json")


@st.composite
def damages(draw):
    """A file, one of its lines, and a damage to a value in it. Numbers choose line and value, because files differ."""
    how = draw(st.sampled_from(["replaced", "removed", "doubled", "byte"]))
    return (
        draw(st.sampled_from(FILES)),
        how,
        draw(st.integers(0, 2**30)),
        draw(st.integers(0, 2**30)),
        draw(st.sampled_from(ODD)),
    )


def damage(path: Path, how: str, line: int, place: int, odd) -> None:
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    line %= len(lines)
    if how == "byte":
        text = bytearray(lines[line].encode())
        text[place % len(text)] = line % 256
        lines[line] = text.decode("latin-1")
    else:
        value = json.loads(lines[line])
        found: list[Any] = places(value)
        *path_to, last = (0, *found[place % len(found)])
        whole: list[Any] = [value]
        inner: Any = whole
        for key in path_to:
            inner = inner[key]
        if how == "removed" and path_to:
            del inner[last]
        elif how == "doubled" and path_to and isinstance(inner, list):
            inner.append(inner[last])
        else:
            inner[last] = odd
        lines[line] = json.dumps(whole[0])
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")


@hypothesis.settings(
    max_examples=100, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], database=None
)
@hypothesis.given(damages())
def test_a_damaged_file_is_accepted_or_refused_in_one_line(folders, capsys, damaged):
    folder, number = folders
    copy = folder.with_name(f"copy{next(number)}")
    shutil.copytree(folder, copy)
    name, *how = damaged
    damage(copy / name, *how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", lambda *_: [])  # drawing takes a second
        code = main(["report", str(copy)])
    shutil.rmtree(copy)
    if code == 0:
        assert capsys.readouterr().err == ""
    else:
        assert code == 2 and str(copy / name) in said(capsys)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("records.jsonl", "{}", "the last line lacks phase; delete that line"),
        ("records.jsonl", "1", "the last line holds 1: input should be an object; delete that line"),
        ("records.jsonl", '{"seed": 1}', "the last line lacks phase; delete that line"),
        ("env.json", "[]", r"env.json holds \[\]: input should be an object; restore it"),
        ("env.json", '{"commit": 1}', "env.json holds commit = 1: input should be a valid string"),
        ("result.json", "{}", "result.json lacks metric; delete it and run again: it is computed again"),
        ("result.json", "null", "result.json holds None: input should be an object"),
        ("config.json", "[]", r"config.json.* \[\]"),
        ("config.json", '{"nmae": "x"}', "Config has no field 'nmae'; did you mean 'name'"),
        ("data.json", '{"name": 1}', "data.json holds name = 1: input should be a valid string"),
        ("arms.json", '{"a": {}}', "arms.json lacks a.parameters; delete it"),
        ("arms.json", "[" * 100_000, "arms.json is no JSON; delete it"),
    ],
    ids=lambda text: text[:20],
)
def test_a_file_of_another_shape_is_refused_with_the_place_and_the_remedy(folders, tmp_path, capsys, name, text, words):
    shutil.copytree(folders[0], tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_text((path.read_text() if name == "records.jsonl" else "") + text + "\n")
    written = path.read_text()
    assert main(["report", str(tmp_path / "run")]) == 2
    lines = len(written.splitlines())
    assert re.search(words.replace("the last line", f"line {lines} of {lines}"), error := said(capsys)), error
    assert path.read_text() == written, "nothing was cut off"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda made: made[0].update(treatment="beside"), r"holds an arm beside/relu \(line 1\), which the config has"),
        (lambda made: made[0]["val_loss"].pop(), r"line 1 of \d+ has a curve without the 8 values that steps has"),
        (lambda made: made[0].update(val_accuracy=[2.0] * 8), "holds val_accuracy.0 = 2.0: input should be less than"),
        (lambda made: made[2].update(seed=6), r"with seed 6 \(line 3\), which the config has not; if .*config.json"),
        (lambda made: made[2].update(test_accuracy=0.5), r"accuracy 0.5 with \d+ of 450 bits of right set; if .*data"),
        (lambda made: made[-1].pop("test_accuracy"), r"line \d+ of \d+ lacks test_accuracy"),
        (lambda made: next(r for r in made if r.get("probes"))["probes"]["dead"].pop(), "dead that are not 9 lists"),
        (lambda made: [made[3][c].pop() for c in ("steps", "train_loss", "val_loss", "val_accuracy")],
         r"holds trainings of none/relu that differ in their steps \(line 4\)"),
    ],
)  # fmt: skip
def test_records_that_do_not_fit_the_run_are_refused(folders, tmp_path, change, words):
    shutil.copytree(folders[0], tmp_path / "run")
    path = tmp_path / "run" / "records.jsonl"
    made = record.read(tmp_path / "run").records
    change(made)
    path.write_text("".join(json.dumps(line) + "\n" for line in made))
    with pytest.raises(ConfigError, match=words):
        record.read(tmp_path / "run")


def test_a_folder_that_was_made_whole_again_is_read_as_before(folders, tmp_path):
    """Deleting what the error names is enough: the result is computed again, and reports work without env.json."""
    shutil.copytree(folders[0], tmp_path / "run")
    before = record.read(folders[0])
    for name in ("env.json", "data.json", "arms.json", "engine.json", "result.json"):
        (tmp_path / "run" / name).unlink()
    found = record.read(tmp_path / "run")
    assert (found.records, found.config) == (before.records, before.config)
    assert found.result is None and found.env == found.data == found.arms == {}
