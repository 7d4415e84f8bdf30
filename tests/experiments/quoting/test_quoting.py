"""experiments.quoting: what a page or a docstring says of a run is what the run's result says."""

import json
import re
import shutil

import pytest
from helpers import ROOT
from published_folders import published_folder
from simulated import peak

from experiments.config import (
    AnalysisConfig,
    Config,
    ConfigError,
    Contrast,
    DataConfig,
    Published,
    SweepConfig,
    load,
)
from experiments.quoting import docstrings, words
from experiments.quoting.changes import changes
from experiments.quoting.pages import quoted
from experiments.quoting.runs import QUESTIONS, read_published
from experiments.store.record import read

DEPENDS = Contrast("depends", {"after/relu": 1, "before/relu": -1, "after/tanh": -1, "before/tanh": 1})
CONFIG = Config(
    "mine",
    activations=("relu", "tanh"),
    data=DataConfig(name="mnist"),
    sweep=SweepConfig(lowest_learning_rate=2.0**-6, learning_rate_points=7, seeds=4),
    analysis=AnalysisConfig(contrasts=(DEPENDS,), published=(Published("relu: after - before", 3.0, "Doe"),)),
)
HEIGHTS = {"none/relu": 60, "before/relu": 92, "after/relu": 95, "none/tanh": 5, "before/tanh": 93, "after/tanh": 93}
SOURCE = (
    '"""A question?\n\n    python -m experiments run configs/mine.py\n\nWhy.\n\nResult ()\n\nAnd more.\n"""\n\nx = 1\n'
)
FORMER = {
    "folder": "mine",
    "context": "relu",
    "a": "after",
    "b": "before",
    "n": 21,
    "difference": 2.5,
    "ci": [1.0, 4.0],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def truth(arm, setting):
        return HEIGHTS[str(arm)] + peak(0)(arm, setting)

    return published_folder(tmp_path_factory.mktemp("published"), CONFIG, truth)


@pytest.fixture(scope="module")
def run(folder):
    return read(folder)


def page(block, runs, where="docs/page.md", former=()):
    return quoted(f"Before.\n\n<!-- make quote: {block} -->\nold\n<!-- end of quote -->\nAfter.\n", where, runs, former)


def cells(text):
    """The rows of the tables in a text, as lists of cells."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


def of(run, name):
    return next(row for row in run.result["contrasts"] if row["name"] == name)


def test_a_table_of_placements_says_the_estimates_both_intervals_and_the_verdict_as_it_is(run):
    text = page("placements mine", {"mine": run})
    rows = {row[0]: row for row in cells(text)}
    assert rows["activation"] == ["activation", "none", "before", "after", "after - before (pp)", "verdict"]
    for context in ("relu", "tanh"):
        arms = {arm["treatment"]: arm for arm in run.result["arms"] if arm["context"] == context}
        means = [f"{arms[t]['estimate']:.2f} ± {arms[t]['se']:.2f}" for t in ("none", "before", "after")]
        contrast = of(run, f"{context}: after - before")
        narrow, wide = ("[{:.2f}, {:.2f}]".format(*i["ci"]) for i in contrast["intervals"])
        difference = f"{contrast['difference']:+.2f} {narrow}; {wide}"
        assert rows[context] == [context, *means, difference, words.verdict(contrast)]
        assert rows[context][-1].startswith(contrast["verdict"])
    assert "for new seeds, then for new data, too, on which the verdict rests" in text
    assert "Not all trainings learned: none/tanh 0 of 4." in text
    networks = sum(len(setting["values"]) for arm in run.result["arms"] for setting in arm["settings"])
    assert f"4 seeds, {networks:,} networks in 71 s, cpu x 2 (AMD EPYC 7763), jax 0.10.2, 2026-11-30" in text
    assert text.startswith("Before.") and text.endswith("After.\n") and "old" not in text


def test_a_table_of_contrasts_has_every_primary_difference_with_its_arms_and_what_others_published(run):
    text = page("contrasts mine", {"mine": run})
    header, _, *rows = cells(text)
    assert header == ["contrast, first - second", "first", "second", "published (pp)", "ours (pp)", "verdict"]
    arms = {f"{arm['treatment']}/{arm['context']}": words.accuracy(arm) for arm in run.result["arms"]}
    primary = [row for row in run.result["contrasts"] if row["primary"] and row["kind"] == "simple"]
    assert [row[0] for row in rows] == [row["name"] for row in primary] and len(rows) == 6
    by_name = {row[0]: row for row in rows}
    assert by_name["tanh: after - none"][1:3] == [arms["after/tanh"], arms["none/tanh"]]
    assert by_name["relu: after - before"][3] == f"+3.00: **{run.result['published'][0]['word']}**"
    for row in primary:
        assert by_name[row["name"]][4:] == [words.difference(row), words.verdict(row)]
    assert "for new seeds, then for new data, too" in text and words.provenance(run) in text


def test_questions_of_named_runs_are_those_alone():
    runs = read_published()
    _, _, *rows = cells(page("questions small_batches digits_aa", runs))
    wanted = [asked.words for asked in QUESTIONS if asked.run in ("small_batches", "digits_aa")]
    assert [row[0] for row in rows] == wanted and 0 < len(wanted) < len(QUESTIONS)


def test_the_docstring_has_every_arm_and_every_contrast_of_the_family_and_the_rest_stays(run):
    text = docstrings.replaced(SOURCE, run)
    assert docstrings.replaced(text, run) == text, "writing it again changes nothing"
    assert text.startswith(SOURCE.split("Result ()")[0]) and text.endswith('\nAnd more.\n"""\n\nx = 1\n')
    assert max(map(len, text.splitlines())) <= 120
    plain = " ".join(text.split())
    assert "95% intervals for new seeds, then for new data, too, and verdicts:" in plain
    for row in run.result["contrasts"]:
        said = f"{row['name']} = {words.difference(row)}: {words.verdict(row)}"
        assert (said in plain) is row["primary"], row["name"]
    word = run.result["published"][0]["word"]
    assert f"{of(run, 'relu: after - before')['verdict']}; published +3.00: {word}" in plain
    for arm in run.result["arms"]:
        assert f"{arm['treatment']} {words.accuracy(arm)}" in plain


def test_a_docstring_without_a_place_for_the_result_is_refused(run):
    with pytest.raises(ValueError, match=r'has 0 blocks that begin with "Result \(".*write the line Result \(\)'):
        docstrings.replaced(SOURCE.replace("Result ()", "The result"), run)


def test_a_docstring_that_ends_with_the_result_keeps_its_end(run):
    source = '"""A question?\n\nResult ()\n"""\n\nimport this\n'
    assert docstrings.replaced(source, run) == f'"""A question?\n\n{docstrings.block(run)}"""\n\nimport this\n'


def test_links_lead_from_the_page(run):
    for where, to in (("README.md", "experiments/published/mine"), ("docs/page.md", "../experiments/published/mine")):
        assert f"]({to}/figures/differences.png)" in page("figure mine", {"mine": run}, where)
        assert f"]({to}/report.md)" in page("ran", {"mine": run}, where)


def test_the_chosen_engine_is_bold_and_what_did_not_fit_is_empty(run):
    header, _, row = cells(page("engines mine", {"mine": run}))
    assert dict(zip(header[1:], [*row[1:], *[""] * 4], strict=False)) == {
        "compiled loop, seeds one after another": "**0.3**",
        "compiled loop, seeds side by side": "",
        "no loop, one after another": "0.44",
        "no loop, side by side": "",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "<!-- make quote: nonsense -->\n<!-- end of quote -->\n",
            "there is no block 'nonsense'; choose one of figure,",
        ),
        ("<!-- make quote: ran other -->\n<!-- end of quote -->\n", "no published run 'other'; choose one of mine"),
        ("<!-- make quote: ran -->\n", "has 1 comments that begin a quote, of which 0 are complete"),
        ("<!-- make quote ran -->\n<!-- end of quote -->\n", "has 1 comments that begin a quote, of which 0"),
    ],
)
def test_a_block_that_cannot_be_quoted_is_refused(run, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        quoted(text, "README.md", {"mine": run})


@pytest.mark.parametrize(
    ("before", "difference", "now", "became"),
    [
        ("different", 2.5, ("different", "different"), "stands"),
        ("different", -2.5, ("different", "different"), "changed"),
        ("different", 2.5, ("inconclusive", "inconclusive"), "fell"),
        ("different", 2.5, ("worse_at_end_of_grid", "worse_at_end_of_grid"), "fell"),
        ("different", 2.5, ("different_within_margin", "different_within_margin"), "says more"),
        ("different_within_margin", 2.5, ("equivalent", "equivalent"), "says less"),
        ("different_within_margin", 2.5, ("different", "different"), "says less"),
        ("equivalent", 2.5, ("different", "different"), "changed"),
        ("equivalent", 2.5, ("exactly_equal", "exactly_equal"), "says more"),
        ("inconclusive", 2.5, ("inconclusive", "inconclusive"), "stands"),
        ("inconclusive", 2.5, ("equivalent", "equivalent"), "says more"),
        ("different", 2.5, ("different", "inconclusive"), "for new seeds: stands; for new data, too: fell"),
    ],
)
def test_what_became_of_a_verdict_is_told_by_what_it_claimed(run, before, difference, now, became):
    row = json.loads(json.dumps(of(run, "relu: after - before")))
    for interval, finding in zip(row["intervals"], now, strict=True):
        interval["finding"] = finding
    alone = run._replace(result=run.result | {"contrasts": [row]})
    former = FORMER | {"finding": before, "difference": difference, "verdict": "old words"}
    assert [change.became for change in changes(alone, [former])] == [became]


def test_every_verdict_that_did_not_stand_is_named_and_both_are_in_the_table(run):
    fell = FORMER | {"context": "tanh", "finding": "different", "verdict": "after is better by 2.50 pp"}
    stands = FORMER | {"finding": "different", "verdict": "after is better by 2.50 pp"}
    said = stands | {"published": 3.0, "published_verdict": "not reproduced"}
    words_only = {"folder": "mine", "contrast": "depends", "verdict": "“it depends”"}
    text = page("counts", {"mine": run}, former=[stands, fell, words_only])
    now = words.verdict(of(run, "tanh: after - before"))
    assert "Of the 2 that were asked again, 1 stand. These do not:" in text
    assert f"tanh: after - before: **fell**. Formerly: after is better by 2.50 pp. Now: {now}." in text
    assert f"depends: formerly “it depends”. Now: {words.difference_in_words(of(run, 'depends'))}" in text
    table = page("changes", {"mine": run}, former=[said])
    word = run.result["published"][0]["word"]
    assert "+2.50 [1.00, 4.00], n = 21: after is better by 2.50 pp; published +3.00: not reproduced" in table
    assert cells(table)[-1][-1] == f"stands; published: not reproduced → {word}"


def test_a_former_question_that_a_run_could_ask_and_does_not_is_an_error(run):
    silent = run._replace(result=run.result | {"contrasts": []})
    with pytest.raises(ValueError, match=r"does not ask 'relu: after - before'"):
        list(changes(silent, [FORMER | {"finding": "different"}]))


def test_a_former_difference_of_an_arm_that_the_run_leaves_out_is_counted_and_said(run):
    gone = FORMER | {"context": "gelu", "finding": "different", "verdict": "old words"}
    asked = FORMER | {"finding": "different", "verdict": "old words"}
    assert len(list(changes(run, [gone, asked]))) == 1
    text = page("counts", {"mine": run}, former=[gone, asked])
    assert "1 of 2 are asked no more: the runs leave an arm out." in text
    assert "not asked: the run has no arm after/gelu" in page("changes", {"mine": run}, former=[gone])


def test_a_folder_of_the_former_procedure_cannot_be_read(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "mine")
    assert read_published(tmp_path)["mine"].result == read(folder).result
    values = json.loads((copy / "config.json").read_text())
    values["sweep"]["tuning_seeds"] = 3
    (copy / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="made by an older version"):
        read_published(tmp_path)


def test_every_question_is_one_that_its_config_asks():
    for asked in QUESTIONS:
        assert asked.contrast in [c.name for c in load(ROOT / "configs" / f"{asked.run}.py").contrasts], asked
