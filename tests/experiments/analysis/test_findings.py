"""Findings and their words, case by case."""

import pytest
import scipy.stats

from experiments.analysis.bagging import Estimate
from experiments.analysis.family import judge
from experiments.analysis.findings import finding, interval_text, sentence, verdict, verdicts
from experiments.config import Arm, Contrast
from experiments.config.contrasts import questions


def contrasts(*asked, **options):
    """All of the questions, interactions that come by themselves among them, as one family."""
    return [question._replace(primary=True) for question in questions(*asked, **options)]


AFTER, BEFORE = Arm("after", "relu"), Arm("before", "relu")
ARMS = [AFTER, BEFORE, Arm("after", "tanh"), Arm("before", "tanh")]


def estimate(difference, se=0.2, n=12):
    if not se:
        p = 2.0 ** (1 - n) if difference else 1.0
        return Estimate(difference, 0.0, n - 1, (difference, difference), p, True, 0.0, n)
    half = scipy.stats.t.ppf(0.975, n - 1) * se
    p = 2 * scipy.stats.t.sf(abs(difference) / se, n - 1)
    return Estimate(difference, se, n - 1, (difference - half, difference + half), p, False, 0.0, n)


def simple(difference, se=0.2, *, n=12, margin=1.0, ends=None, **of_contrast):
    asked = contrasts([AFTER, BEFORE], [("after", "before")])[0]._replace(**of_contrast)
    return judge([asked], [estimate(difference, se, n)], margin_pp=margin, alpha=0.05, end_shares=ends)[0]


def interaction(difference, se=0.2, ends=None):
    asked = contrasts(ARMS, [("after", "before")])
    found = [estimate(0.0), estimate(0.0), estimate(difference, se)]
    return judge(asked, found, margin_pp=1.0, alpha=0.05, end_shares=ends)[2]


@pytest.mark.parametrize(
    ("difference", "se", "found", "said"),
    [
        (1.2, 0.2, "different", "after is better by 1.20 pp"),
        (-1.2, 0.2, "different", "before is better by 1.20 pp"),
        (
            -0.3,
            0.05,
            "different_within_margin",
            "before is better by 0.30 pp, detected yet within the margin of ±1 pp (TOST p < 0.001)",
        ),
        (0.1, 0.2, "equivalent", "equivalent within ±1 pp (TOST p < 0.001)"),
        (0.9, 0.5, "inconclusive", "no detectable difference; equivalence at ±1 pp not shown (TOST p = 0.42)"),
        (0.0, 0.0, "exactly_equal", "no difference at all: neither seed nor bag makes one"),
        (2.0, 0.0, "different", "after is better by 2.00 pp"),
    ],
)
def test_a_simple_contrast_in_words(difference, se, found, said):
    judged = simple(difference, se)
    assert (finding(judged), verdict(judged)) == (found, said)


def test_an_interaction_in_words():
    assert verdict(interaction(1.5)) == "after - before is larger in relu than in tanh by 1.50 pp"
    assert verdict(interaction(-1.5)) == "after - before is larger in tanh than in relu by 1.50 pp"
    assert verdict(interaction(0.1)) == "no interaction beyond ±1 pp (TOST p < 0.001 after Holm)"
    assert verdict(interaction(0.9, 0.5)).startswith("no detectable interaction; equivalence at ±1 pp not shown")
    assert verdict(interaction(0.0, 0.0)) == "no interaction at all: neither seed nor bag makes one"


@pytest.mark.parametrize(("sign", "worse", "better"), [(1, BEFORE, AFTER), (-1, AFTER, BEFORE)])
def test_no_arm_is_called_better_while_the_worse_one_sits_at_an_end_of_its_grid(sign, worse, better):
    held = simple(sign * 2.81, ends={worse: 0.34})
    assert finding(held) == "worse_at_end_of_grid"
    assert verdict(held) == (
        f"undecided: {better.treatment} is better by 2.81 pp at the settings tried, but {worse.treatment} sits at "
        "an end of its grid and may be better than shown"
    )
    both = simple(sign * 2.81, ends={worse: 0.34, better: 0.5})
    assert finding(both) == "worse_at_end_of_grid"
    # The better one may be better still: that it is better stands.
    stands = simple(sign * 2.81, ends={better: 0.34})
    assert finding(stands) == "different"
    assert verdict(stands).startswith(
        f"{better.treatment} is better by 2.81 pp; {better.treatment} sits at an end of its grid and may be better"
    )
    assert finding(simple(sign * 2.81, ends={worse: 0.04})) == "different"


def test_what_is_equivalent_or_undecided_says_that_an_arm_sits_at_an_end():
    for difference, se in ((0.1, 0.2), (0.9, 0.5)):
        plain, at_end = (simple(difference, se, ends=ends) for ends in (None, {BEFORE: 0.2, AFTER: 0.1}))
        assert finding(plain) == finding(at_end)
        assert verdict(at_end) == verdict(plain) + (
            "; both after and before sit at an end of their grids and may be better than shown"
        )


def test_an_interaction_is_undecided_where_an_arm_that_counts_against_it_sits_at_an_end():
    for arm, sign in zip(ARMS, (1, -1, -1, 1), strict=True):
        assert finding(interaction(1.5, ends={arm: 0.5})) == ("different" if sign > 0 else "worse_at_end_of_grid")
        assert finding(interaction(-1.5, ends={arm: 0.5})) == ("different" if sign < 0 else "worse_at_end_of_grid")
    some, every = (interaction(0.1, ends=dict.fromkeys(arms, 0.5)) for arms in (ARMS[:2], ARMS))
    assert f"; {ARMS[0]} and {ARMS[1]} sit at an end of their grids and may be better than shown" in verdict(some)
    assert "; all 4 arms sit at an end of their grids and may be better than shown" in verdict(every)


def test_adjusted_p_values_decide():
    asked = contrasts(ARMS, [("after", "before")])
    found = [estimate(0.5, 0.2), estimate(0.01, 0.5), estimate(0.52, 0.5)]
    assert found[0].p < 0.05
    first, _, _ = judge(asked, found, margin_pp=0.9, alpha=0.05)
    assert first.tost_p < 0.05 and finding(first) == "inconclusive"
    alone = judge(asked[:1], found[:1], margin_pp=0.9, alpha=0.05)[0]
    assert finding(alone) == "different_within_margin"


def test_a_constant_difference_of_few_seeds_is_not_shown():
    judged = simple(0.5, 0.0, n=4)
    assert finding(judged) == "inconclusive"
    assert verdict(judged) == "after is better by 0.50 pp with every seed, but 4 seeds are too few to show it"


def test_an_aa_test_says_whether_its_interval_covers_0():
    agrees, differs = simple(0.3, same_arm=True), simple(-0.8, same_arm=True)
    assert (finding(agrees), finding(differs)) == ("same_arm_agrees", "same_arm_differs")
    assert verdict(agrees) == "the same arm twice, with disjoint seeds: its interval covers 0, as it should"
    assert verdict(differs).endswith("its interval does not cover 0, but should")


def test_a_sentence_says_what_its_interval_speaks_of_and_what_p_is_adjusted_for():
    judged = simple(1.2)
    assert sentence(judged) == (
        "relu: after - before = +1.20 pp, 95% CI [0.76, 1.64] for new seeds; t test p < 0.001; n = 12: "
        "after is better by 1.20 pp"
    )
    crossed = interaction(1.5)._replace(speaks_of="new data, too", simultaneous_ci=(0.8, 2.2))
    assert sentence(crossed) == (
        "(after - before in relu) - (the same in tanh) = +1.50 pp, 95% CI [1.06, 1.94] for new data, too; "
        "t test p < 0.001 after Holm over 3; n = 12: after - before is larger in relu than in tanh by "
        "1.50 pp"
    )
    assert "for new seeds and splits" in interval_text(judged._replace(speaks_of="new seeds and splits"))


def test_what_new_seeds_show_and_new_data_do_not_is_said_of_both():
    narrow, wide = simple(0.9, 0.3), simple(0.9, 0.6)._replace(speaks_of="new data, too")
    assert sentence(wide, narrow) == (
        "relu: after - before = +0.90 pp, 95% CI [0.24, 1.56] for new seeds, [-0.42, 2.22] for new data, too; t test "
        "p = 0.16; n = 12: for new seeds: after is better by 0.90 pp; for new data, too: no detectable difference; "
        "equivalence at ±1 pp not shown (TOST p = 0.44)"
    )
    held = simple(0.9, 0.3, ends={BEFORE: 0.3})  # shows nothing either, so that there is one verdict
    assert finding(held) == "worse_at_end_of_grid" and finding(wide) == "inconclusive"
    assert verdicts(wide, held) == verdict(wide)
    agree = simple(0.9, 0.31)._replace(speaks_of="new data, too")
    assert sentence(agree, narrow).endswith("for new data, too; t test p = 0.014; n = 12: after is better by 0.90 pp")


def test_an_equivalence_shows_the_interval_that_it_rests_on():
    half = scipy.stats.t.ppf(0.95, 11) * 0.2
    assert f"; 90% CI [{0.1 - half:.2f}, {0.1 + half:.2f}]; n = 12: equivalent" in sentence(simple(0.1))
    assert "90%" not in sentence(simple(1.2)) and "90%" not in sentence(simple(0.9, 0.5))


def test_an_exploration_is_worded_as_one_and_its_p_is_not_adjusted():
    asked = questions(ARMS, [], [Contrast("width", {"after/relu": 1, "after/tanh": -1}, primary=False)])
    (judged,) = judge(asked, [estimate(0.5)], margin_pp=1.0, alpha=0.05)
    assert sentence(judged) == (
        "width = +0.50 pp, 95% CI [0.06, 0.94] for new seeds; t test p = 0.03 (not adjusted); 90% CI [0.14, 0.86]; "
        "n = 12: exploration: after/relu is better by 0.50 pp, detected yet within the margin of ±1 pp (TOST p = 0.015)"
    )
    (held,) = judge(asked, [estimate(2.5)], margin_pp=1.0, alpha=0.05, end_shares={Arm("after", "tanh"): 1.0})
    assert verdict(held).startswith("exploration: undecided: after/relu is better by 2.50 pp at the settings tried")


def test_an_exact_contrast_has_no_interval():
    assert sentence(simple(0.0, 0.0)) == (
        "relu: after - before = 0.00 pp, moved by neither seed nor bag, so no interval; sign-flip p > 0.99; n = 12: "
        "no difference at all: neither seed nor bag makes one"
    )
