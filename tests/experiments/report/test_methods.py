"""experiments/report/templates/methods.j2: the text says what the code does, and no more than applies to the run."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic
from helpers import ROOT
from synthetic import SMALL

from experiments import report
from experiments.analysis import bagging, plan, race, stats
from experiments.config import AugmentationConfig, Contrast, SweepConfig, vary
from experiments.report import pages
from experiments.store.record import Run


def methods(config, **fields):
    """The paragraphs of the methods by their headings, of a run whose result has these fields."""
    made = synthetic.records(config, probe_seeds=0)
    result = stats.summarize(config, made, synthetic.data()) | fields
    run = Run(Path("run"), config, {}, synthetic.data(), made, result, {})
    text = pages.templates().get_template("methods.j2").render(pages.facts(run, result))
    assert len(re.findall(r"^\*\*", text, re.M)) == len(re.findall(r"(?:\A|\n\n)\*\*", text)), "paragraphs are apart"
    return {m[1].rstrip("."): m[2] for m in re.finditer(r"^\*\*(.+?)\*\*(.*)$", text, re.MULTILINE)}


def test_the_numbers_are_those_of_the_code():
    found = methods(SMALL)
    searched, bagged = found["How settings were searched"], found["How the choice is bagged"]
    assert f"in {bagging.BAGS:,} bags" in bagged and plan.BAGS == bagging.BAGS
    assert f"{100 * plan.MOST_AT_END:g}% or more of the bags" in searched
    assert f"among the {race.LEAST} best" in searched
    assert f"at most {race.STANDARD_ERRORS:g} standard errors" in searched
    assert f"The first {race.first_round(SMALL.sweep.seeds)} seeds train every setting" in searched
    assert "at most 3 beyond either end" in searched and "all 6 seeds" in searched


def measured(name):
    """Of 12 raced seeds: coverage of after - before; how often an arm differs from itself; coverage of the bad arm."""
    table = (ROOT / f"benchmarks/results/{name}.md").read_text()
    assert "repeated 1000 times" in table and "256 seeds" in table
    rows = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]]
            for row in table.splitlines() if row.startswith("| ")}  # fmt: skip
    covers, level = rows["12 seeds, raced, choice bagged"][-2:]
    every = [
        row.split("|") for row in table.partition("**Every contrast**")[2].partition("**Conclusions**")[0].splitlines()
    ]
    column = next(row for row in every if len(row) > 1).index(" 12 seeds, raced, choice bagged ")
    skewed = [row[column].split("/")[1].strip() for row in every if len(row) > 1 and "- none, sigmoid" in row[1]]
    former = rows["3 seeds choose, 21 others are read"][-1].split()[0]
    return sorted(set(covers.split())), level.replace(" [", "% ["), sorted(set(skewed)), former


def test_what_was_measured_is_what_the_benchmark_found():
    text = methods(SMALL)["What was measured about the level"]
    covers, level, skewed, former = measured("calibration")
    assert f"in {covers[0]} to {covers[-1]}% of the repeats" in text and f"in {level} of them" in text
    assert f"gave {former}%" in text and f"covered {skewed[0]} to {skewed[-1]}%" in text
    covers, level, skewed, _ = measured("calibration_each_seed")
    assert f"they covered {covers[0]} to {covers[-1]}%" in text and f"differed in {level}" in text
    assert len(skewed) == 1 and f"of the unreliable arm covered {skewed[0]}%" in text
    reruns = json.loads((ROOT / "benchmarks/results/reruns.json").read_text())
    error = reruns["jackknife standard error of the ratio"]
    assert reruns["runs"] == 6 and f"moved {reruns['ratio']:.2f} ± {error:.2f} times" in text
    assert "arm with a norm" in text and "repeated 1,000 times" in text


def test_the_page_of_what_changed_quotes_the_same_benchmark():
    table, page = ((ROOT / path).read_text() for path in ("benchmarks/results/calibration.md", "docs/what-changed.md"))
    found = {cells[1].strip(): [cell.strip() for cell in cells[2:7]]
             for row in table.splitlines() if len(cells := row.split("|")) == 9}  # fmt: skip
    quoted = [row.split("|")[1:-1] for row in page.splitlines() if re.match(r"\| (former|now|10|6)\b.*%", row)]
    assert len(quoted) == 4
    for name, *cells in quoted:
        trainings, sd, error, _, covers = found[name.strip().removeprefix("former: ").removeprefix("now: ")]
        assert [cell.strip().replace(",", "") for cell in cells] == [trainings, sd, error, f"{covers}%"]


def test_only_what_applies_is_said():
    plain = methods(SMALL)
    assert [*plain] == [
        *("What is random", "How settings were searched", "How the choice is bagged", "What the intervals speak of"),
        *("How findings are made", "Published differences", "Power", "What was measured about the level"),
    ]
    assert "variance is the infinitesimal jackknife's" in plain["How the choice is bagged"]
    assert "Holm" not in plain["How findings are made"] and "Welch" not in plain["What the intervals speak of"]
    assert "augmentation" not in plain["What is random"] and "split of the data" not in plain["What is random"]
    again = vary("again", {"model.placement": "after"}, first_seed=100)
    weights = {"after/relu": 1, "none/relu": -1, "after/tanh": -1, "none/tanh": 1}
    analysis = replace(
        SMALL.analysis,
        published=(),
        pairs=(("after", "none"), ("again", "after")),
        contrasts=(Contrast("x", weights, primary=False),),
    )
    config = replace(
        SMALL,
        activations=("relu", "tanh"),
        treatments=(again,),
        analysis=analysis,
        augmentation=AugmentationConfig(flip=True),
        sweep=SweepConfig(learning_rate_points=5, lowest_learning_rate=2.0**-4, seeds=6, race=False),
    )
    look = {"seeds": 6, "planned": [6, 12], "alpha": 0.0054, "undeclared": [3]}
    full = methods(config, look=look)
    assert {"Explorations", "A/A tests", "Looks", "Seeds that were added"} <= set(full)
    assert "Published differences" not in full and "the augmentation" in full["What is random"]
    assert "Welch's" in full["What the intervals speak of"] and "99.46%" in full["What the intervals speak of"]
    assert "A/A tests rest on the interval for new seeds" in full["What the intervals speak of"]
    assert (
        "a false difference is shown in at most 0.54% of runs, and a false equivalence in at most as many"
        in full["How findings are made"]
    )
    assert "The 2 primary contrasts" in full["How findings are made"] and "0.0054" in full["How findings are made"]
    assert "standard errors" not in full["How settings were searched"]
    assert "6 and 12 seeds" in full["Looks"] and "O'Brien" in full["Looks"]


@pytest.mark.parametrize("speaks_of", ["new seeds", "new seeds and splits"])
def test_what_intervals_speak_of_depends_on_the_split(speaks_of):
    result = stats.summarize(SMALL, synthetic.records(SMALL, probe_seeds=0), synthetic.data())
    for row in result["contrasts"]:
        row["intervals"][0]["speaks_of"] = speaks_of
    found = methods(SMALL, contrasts=result["contrasts"])
    own = speaks_of == "new seeds and splits"
    assert ("Nadeau" in found["What the intervals speak of"]) is own
    assert ("pigeonhole" in found["What the intervals speak of"]) is not own
    assert ("the split of the data into its" in found["What is random"]) is own


def test_paragraphs_of_the_page_are_marked_up(tmp_path):
    folder = synthetic.run_folder(tmp_path / "run", SMALL, made=synthetic.records(SMALL, probe_seeds=0))
    report.write(folder)
    page = (folder / "report.html").read_text()
    assert "<p><strong>What is random.</strong> A seed draws" in page and "**" not in page
    assert "<code>python -m benchmarks calibration</code>" in page and "<p></p>" not in page
