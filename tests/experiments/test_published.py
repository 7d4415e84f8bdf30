"""Every published run: its files belong together, and its analysis, done again by other code, agrees."""

import json
import shutil

import pytest
from helpers import ROOT
from published_checks import checked
from published_folders import published_folder
from simulated import peak

from experiments.config import Config, Contrast, DataConfig, SweepConfig, vary
from experiments.config.analysis import AnalysisConfig, Published
from experiments.store.record import read

PUBLISHED = [path.parent for path in sorted(ROOT.glob("experiments/published/*/scores.csv"))]
HEIGHTS = {"none/relu": 85, "before/relu": 92, "after/relu": 92.9, "none/tanh": 85, "before/tanh": 91, "after/tanh": 91}
CROSSED = {"after/relu": 1, "before/relu": -1, "after/tanh": -1, "before/tanh": 1}
PLAIN = Config(
    "simulated",
    activations=("relu", "tanh"),
    data=DataConfig(name="fashion_mnist"),
    sweep=SweepConfig(lowest_learning_rate=2.0**-6, learning_rate_points=7, seeds=8),
    analysis=AnalysisConfig(
        contrasts=(Contrast("crossed", CROSSED), Contrast("aside", {"none/relu": 1, "none/tanh": -1}, primary=False)),
        published=(
            Published("relu: after - before", 0.9, "Doe", n=5, sd=0.3),
            Published("crossed", -3.0, "Roe"),
        ),
    ),
)
SAME_ARM = Config(
    "same_arm",
    placements=(),
    treatments=(
        vary("before", {"model.placement": "before"}),
        vary("again", {"model.placement": "before"}, first_seed=1000),
        vary("bare", {"model.placement": "before", "model.use_bias": False}),
    ),
    activations=("relu",),
    sweep=SweepConfig(lowest_learning_rate=2.0**-6, learning_rate_points=7, seeds=8, race=False),
    analysis=AnalysisConfig(pairs=(("again", "before"), ("bare", "before"))),
)


def flat(arm, setting):
    """Rates near the best one tie, so that bags choose different ones."""
    return HEIGHTS[str(arm)] + 0.2 * peak(0)(arm, setting) - (30 if arm.treatment == "none" else 0)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    return published_folder(tmp_path_factory.mktemp("published"), PLAIN, flat, test=10_000)


@pytest.fixture(scope="module")
def of_splits(tmp_path_factory):
    return published_folder(
        tmp_path_factory.mktemp("published"), SAME_ARM, lambda a, s: 92 + 0.2 * peak(0)(a, s), test=450
    )


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_a_published_analysis_done_again_by_other_code_agrees(folder):
    checked(folder)


def test_a_simulated_run_agrees_too_whether_its_data_are_one_split_or_many(simulated, of_splits):
    checked(simulated)
    checked(of_splits)
    simulated_result = read(simulated).result
    assert any(0.1 < arm["share"] < 0.9 for arm in simulated_result["arms"]), "bags choose different rates"
    assert any(row["same_arm"] for row in read(of_splits).result["contrasts"])


def changed(folder, tmp_path, change):
    """A copy of a published folder with a result that was changed by hand."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    result = json.loads((copy / "result.json").read_text())
    change(result)
    (copy / "result.json").write_text(json.dumps(result))
    return copy


def _contrast(result, name):
    return next(row for row in result["contrasts"] if row["name"] == name)


def wrong_difference(result):
    row = _contrast(result, "relu: after - before")
    for of in (row, *row["intervals"]):
        of["difference"] += row["intervals"][0]["se"]


def wrong_error(result):
    row = _contrast(result, "crossed")
    for of in (row, *row["intervals"]):
        of["se"] *= 0.8


def wrong_family(result):
    row = _contrast(result, "tanh: after - before")
    for of in (row, *row["intervals"]):
        of["adjusted_tost_p"] = of["tost_p"]


def wrong_finding(result):
    row = _contrast(result, "tanh: after - before")
    for of in (row, *row["intervals"]):
        of["finding"] = "different"


def wrong_word(result):
    result["published"][1]["word"] = "shown equal"


def wrong_count(result):
    result["arms"][0]["learned"]["count"] -= 1


def wrong_share(result):
    settings = result["arms"][1]["settings"]
    first, second = sorted(settings, key=lambda setting: -setting["share"])[:2]
    first["share"], second["share"] = first["share"] - 0.1, second["share"] + 0.1


def wrong_sentence(result):
    row = _contrast(result, "crossed")
    row["sentence"] = row["sentence"].replace("crossed", "crossed out", 1)


WRONG = [
    wrong_difference,
    wrong_error,
    wrong_family,
    wrong_finding,
    wrong_word,
    wrong_count,
    wrong_share,
    wrong_sentence,
]


@pytest.mark.parametrize("change", WRONG, ids=lambda change: change.__name__)
def test_a_result_that_was_changed_by_hand_is_found_out(simulated, tmp_path, change):
    with pytest.raises(AssertionError):
        checked(changed(simulated, tmp_path, change))


def test_a_score_that_was_changed_by_hand_is_found_out(simulated, tmp_path):
    copy = changed(simulated, tmp_path, lambda result: None)
    lines = (copy / "scores.csv").read_text().splitlines()
    row = next(k for k, line in enumerate(lines) if line.startswith("after,relu,0.125,"))
    cells = lines[row].split(",")
    cells[8] = str(float(cells[8]) - 0.05)
    (copy / "scores.csv").write_text("\n".join([*lines[:row], ",".join(cells), *lines[row + 1 :]]) + "\n")
    with pytest.raises(AssertionError):
        checked(copy)
