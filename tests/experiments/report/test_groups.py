"""experiments.report.groups: the order of contrasts, and what was found about each in a few words."""

from dataclasses import replace

import pytest
import synthetic
from drawn import result_of

from experiments.config import Contrast, vary
from experiments.report.groups import better, decided, estimate, grouped, in_short, lead, primary

CONFIG = replace(synthetic.CONFIG, activations=("relu", "tanh"))
INTERACTION = {"after/relu": 1, "before/relu": -1, "after/tanh": -1, "before/tanh": 1}


@pytest.fixture(scope="module")
def result():
    return result_of(CONFIG, synthetic.records(CONFIG, probe_seeds=0))


def row_of(result, **changes):
    """The first contrast, relu: after - before, with a finding for every interval."""
    row = result["contrasts"][0]
    found = changes.get("finding", row["finding"])
    base = {"difference": 0.5, "at_end": [], "caution": None}
    return row | base | {"intervals": [{**each, "finding": found} for each in row["intervals"]]} | changes


def test_declared_contrasts_come_first_then_pairs_then_explorations_and_last_the_tests_of_an_arm_against_itself():
    again = vary("again", {"model.placement": "before"}, first_seed=100)
    analysis = replace(
        CONFIG.analysis,
        pairs=(("again", "before"), ("after", "before"), ("after", "none")),
        contrasts=(Contrast("placement x activation", INTERACTION),),
    )
    config = replace(CONFIG, treatments=(again,), analysis=analysis)
    found = grouped(config, result_of(config, synthetic.records(config, probe_seeds=0)))
    assert [(g.title, g.kind, g.labels) for g in found] == [
        ("Declared contrasts", "declared", ["placement x activation"]),
        ("after - before", "pair", ["relu", "tanh"]),
        ("after - none", "pair", ["relu", "tanh"]),
        ("Explorations", "exploration", ["(after - none in relu) - (the same in tanh)"]),
        ("A/A test: again - before", "same_arm", ["relu", "tanh"]),
    ]


def test_a_declared_contrast_that_is_no_question_is_an_exploration():
    analysis = replace(CONFIG.analysis, contrasts=(Contrast("aside", INTERACTION, primary=False),))
    config = replace(CONFIG, analysis=analysis)
    found = result_of(config, synthetic.records(config, probe_seeds=0))
    assert [g.kind for g in grouped(config, found)] == ["pair"] * 3 + ["exploration"]
    assert len(primary(found)) == 6 and "aside" not in {row["name"] for row in primary(found)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finding": "different"}, "after is better"),
        ({"finding": "different", "difference": -0.5}, "before is better"),
        ({"finding": "different_within_margin"}, "after is better, but within ±1 pp"),
        ({"finding": "equivalent"}, "equivalent within ±1 pp"),
        ({"finding": "equivalent", "margin_pp": 0.2}, "equivalent within ±0.2 pp"),
        ({"finding": "inconclusive"}, "undecided"),
        ({"finding": "exactly_equal"}, "exactly equal"),
        ({"finding": "different", "primary": False}, "exploration: after is better"),
        (
            {"finding": "worse_at_end_of_grid", "at_end": [{"arm": "before/relu", "share": 0.3}]},
            "undecided: before at the end of its grid",
        ),
        (
            {"finding": "inconclusive", "at_end": [{"arm": "before/relu", "share": 0.3}]},
            "undecided, with before at the end of its grid",
        ),
        (
            {"finding": "different", "at_end": [{"arm": "after/relu", "share": 0.3}]},
            "after is better, with after at the end of its grid",
        ),
        ({"finding": "equivalent", "caution": "1 did not learn"}, "equivalent within ±1 pp; not all trainings learned"),
    ],
)
def test_a_finding_in_short(result, changes, said):
    assert in_short(CONFIG, row_of(result, **changes)) == said


def test_of_two_arms_at_the_end_of_their_grids_only_those_that_may_turn_the_difference_make_it_undecided(result):
    ends = [{"arm": "after/relu", "share": 0.3}, {"arm": "before/relu", "share": 0.2}]
    row = row_of(result, finding="worse_at_end_of_grid", at_end=ends)
    assert in_short(CONFIG, row) == "undecided: before at the end of its grid"
    assert in_short(CONFIG, row | {"difference": -0.5}) == "undecided: after at the end of its grid"


def test_both_findings_are_said_where_new_data_show_less_than_new_seeds(result):
    row = row_of(result, finding="different") | {"finding": "inconclusive"}
    assert in_short(CONFIG, row) == "new seeds: after is better; new data: undecided"
    held = row_of(result, finding="worse_at_end_of_grid") | {"finding": "inconclusive"}
    assert in_short(CONFIG, held) == "undecided"
    assert decided("different") and not decided(row["finding"])


def test_only_a_difference_within_a_context_that_is_shown_has_a_better_treatment(result):
    row = row_of(result, finding="different")
    assert better(CONFIG, row) == "after" and better(CONFIG, row | {"difference": -0.5}) == "before"
    assert better(CONFIG, row | {"finding": "inconclusive"}) is None
    assert better(CONFIG, row | {"primary": False}) is None, "an exploration shows nothing"
    interaction = next(r for r in result["contrasts"] if r["kind"] == "interaction")
    assert better(CONFIG, interaction | {"finding": "different"}) is None


def test_an_estimate_has_its_interval_unless_nothing_moves_it(result):
    row = row_of(result, ci=[0.25, 0.75])
    assert estimate(row) == "+0.50 [0.25, 0.75]" and estimate(row | {"exact": True}) == "+0.50"


def test_the_lead_of_a_sentence_and_its_verdict_are_the_sentence(result):
    for row in result["contrasts"]:
        assert lead(row) + row["verdict"] == row["sentence"] and lead(row).endswith(": ")
