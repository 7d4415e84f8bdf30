"""Published differences: three words, by hand on both sides of 0, and how often each is said."""

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from experiments.analysis.bagging import Estimate
from experiments.analysis.family import judge
from experiments.analysis.published_differences import judge_published, published_sentence
from experiments.config import Arm, ConfigError, Published
from experiments.config.contrasts import questions


def contrasts(*asked, **options):
    """All of the questions, interactions that come by themselves among them, as one family."""
    return [question._replace(primary=True) for question in questions(*asked, **options)]


ARMS = [Arm(t, c) for t in ("after", "before") for c in ("relu", "tanh")]
ASKED = contrasts(ARMS, [("after", "before")])
RELU, CROSSED = ASKED[0].name, ASKED[2].name


def estimate(difference, se=0.2, n=12):
    half = scipy.stats.t.ppf(0.975, n - 1) * se
    p = 2 * scipy.stats.t.sf(abs(difference) / se, n - 1) if se else 1.0
    return Estimate(difference, se, n - 1, (difference - half, difference + half), p, not se, 0.0, n)


def one(reported, difference, se=0.2, *, contrast=0, margin=1.0, n=12, ends=None):
    ours = judge([ASKED[contrast]], [estimate(difference, se, n)], margin_pp=margin, alpha=0.05, end_shares=ends)
    return judge_published([reported], ours, alpha=0.05)[0]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("published", "ours", "se", "word"),
    [
        (2.0, 1.8, 0.2, "shown equal"),
        (2.0, 1.55, 0.15, "shown equal"),  # shown to be smaller, too, but within the margin
        (2.0, 1.8, 0.6, "compatible"),
        (1.97, 3.28, 1.2, "compatible"),  # a wide interval near the published number shows nothing equal
        (2.0, 0.9, 0.7, "compatible"),
        (2.0, 0.9, 0.3, "not reproduced"),
        (2.0, -1.0, 0.3, "not reproduced"),
        (0.0, 0.1, 0.2, "shown equal"),
        (0.0, 1.5, 0.3, "not reproduced"),
    ],
)
def test_three_words(published, ours, se, word, sign):
    assert one(Published(RELU, sign * published, "x"), sign * ours, se).word == word


def test_without_an_error_of_its_own_the_published_number_is_judged_by_a_one_sample_t_test():
    x = np.random.default_rng(0).normal(1.0, 0.7, 12)
    found = one(Published(RELU, 1.4, "x", n=5), x.mean(), x.std(ddof=1) / np.sqrt(12))
    assert found.gap.p == pytest.approx(scipy.stats.ttest_1samp(x, 1.4).pvalue)
    sided = [scipy.stats.ttest_1samp(x, 1.4 + m, alternative=s).pvalue for m, s in ((-1, "greater"), (1, "less"))]
    assert found.adjusted_tost_p == pytest.approx(max(sided))
    assert found.prediction_interval is None


def test_its_own_error_makes_the_judgement_welchs_test_of_two_samples():
    """Ours a sample of 12; theirs one arm's spread over 5 trainings, of a contrast of two arms."""
    rng = np.random.default_rng(1)
    ours = rng.normal(1.0, 0.7, 12)
    sd, n = 0.9, 5
    found = one(Published(RELU, 2.4, "x", n, sd), ours.mean(), ours.std(ddof=1) / np.sqrt(12))
    se_theirs = np.sqrt(2) * sd / np.sqrt(n)
    se = np.hypot(ours.std(ddof=1) / np.sqrt(12), se_theirs)
    df = se**4 / ((ours.var(ddof=1) / 12) ** 2 / 11 + se_theirs**4 / (2 * (n - 1)))
    assert (found.gap.se, found.gap.df) == pytest.approx((se, df))
    assert found.gap.p == pytest.approx(2 * scipy.stats.t.sf(abs(ours.mean() - 2.4) / se, df))
    half = scipy.stats.t.ppf(0.975, df) * se
    assert found.prediction_interval == pytest.approx((2.4 - half, 2.4 + half))
    # An interaction has four arms, so its error is larger and rests on more trainings.
    four = one(Published(CROSSED, 2.4, "x", n, sd), 1.0, 0.2, contrast=2)
    assert four.gap.se == pytest.approx(np.hypot(0.2, 2 * sd / np.sqrt(n)))
    assert four.gap.df == pytest.approx(four.gap.se**4 / (0.2**4 / 11 + (4 * sd**2 / n) ** 2 / (4 * (n - 1))))


def test_ours_lies_in_the_prediction_interval_where_the_two_do_not_differ():
    for ours in np.linspace(-1, 4, 51):
        found = one(Published(RELU, 1.5, "x", 6, 0.5), ours)
        low, high = found.prediction_interval
        assert (low <= ours <= high) == (found.gap.p >= 0.05)
        assert (low <= ours <= high) == (found.gap.ci[0] <= 0 <= found.gap.ci[1])


def test_an_error_of_its_own_turns_not_reproduced_into_compatible():
    assert one(Published(RELU, 2.0, "x", 3), 0.9, 0.3).word == "not reproduced"
    assert one(Published(RELU, 2.0, "x", 3, 0.8), 0.9, 0.3).word == "compatible"
    assert one(Published(RELU, 2.0, "x", 3, 0.8), 1.8, 0.2).word == "compatible"


def test_all_published_differences_of_a_run_are_one_family():
    ours = judge(ASKED, [estimate(0.9, 0.3), estimate(1.0, 0.2), estimate(0.4, 0.25)], margin_pp=1.0, alpha=0.05)
    reported = [Published(c.name, d, "x") for c, d in zip(ASKED, (1.6, 1.4, -0.2), strict=True)]
    found = judge_published(reported, ours, alpha=0.05)
    p = [f.gap.p for f in found]
    assert [f.adjusted_p for f in found] == pytest.approx(multipletests(p, method="holm")[1])
    tost = [scipy.stats.t.sf((1 - abs(f.gap.estimate)) / f.gap.se, 11) for f in found]
    assert [f.adjusted_tost_p for f in found] == pytest.approx(multipletests(tost, method="holm")[1])
    assert p[2] < 0.05 < found[2].adjusted_p and found[2].word == "compatible"
    assert one(reported[2], 0.4, 0.25, contrast=2).word == "not reproduced"


def test_repeats_of_the_same_experiment_are_called_not_reproduced_in_alpha_of_cases_where_both_errors_count():
    rng, repeats, n, m = np.random.default_rng(0), 600, 10, 4
    words = {True: [], False: []}
    for _ in range(repeats):
        a, b = rng.normal(0, 0.8, (2, m))
        x = rng.normal(0, 0.8, n) - rng.normal(0, 0.8, n)
        sd = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
        for known, found in words.items():
            reported = Published(RELU, a.mean() - b.mean(), "x", m, sd if known else None)
            found.append(one(reported, x.mean(), x.std(ddof=1) / np.sqrt(n), n=n).word == "not reproduced")
    assert np.mean(words[True]) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)
    assert np.mean(words[False]) > 0.15


def test_differences_at_the_margin_are_shown_equal_in_at_most_alpha_of_cases():
    rng, repeats, n = np.random.default_rng(1), 600, 10
    x = rng.normal(1.0, 0.8, (repeats, n))
    shown = [one(Published(RELU, 0.0, "x"), v.mean(), v.std(ddof=1) / np.sqrt(n), n=n).word for v in x]
    assert np.mean([word == "shown equal" for word in shown]) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)


def test_what_has_no_error_on_either_side_is_judged_by_signs():
    near_by, far, equal = (one(Published(RELU, d, "x"), 0.0, 0.0) for d in (0.4, 1.4, 0.0))
    assert (near_by.word, near_by.adjusted_tost_p) == ("shown equal", 2.0**-12)
    assert (far.word, far.adjusted_p) == ("not reproduced", 2.0**-11)
    assert (equal.word, equal.adjusted_p) == ("shown equal", 1)
    with_error = one(Published(RELU, 1.4, "x", 5, 0.9), 0.0, 0.0)
    assert not with_error.gap.exact and with_error.gap.df == pytest.approx(8)


def test_sentences():
    assert published_sentence(one(Published(RELU, 1.97, "Doe 2020", 5), 3.28, 1.2)) == (
        "relu: after - before: published +1.97 pp (Doe 2020, n = 5, its own error not known), ours +3.28 pp, 95% CI "
        "[0.64, 5.92] for new seeds, n = 12: compatible: ours - theirs = +1.31 pp [-1.33, 3.95], neither shown to be "
        "within ±1 pp (TOST p = 0.6) nor shown to differ from 0 (p = 0.3)"
    )
    known = one(Published(RELU, 2.0, "Doe 2020", 5, 0.1), 1.9, 0.1, ends={ARMS[0]: 0.2})
    said = published_sentence(known)
    assert (
        "n = 5, sd 0.10), ours +1.90 pp" in said
        and "n = 12, where theirs predicts [1.75, 2.25]: shown equal: ours - theirs" in said
    )
    assert said.endswith("within ±1 pp (TOST p < 0.001); after sits at an end of its grid and may be better than shown")
    assert published_sentence(one(Published(CROSSED, -1.8, "Doe 2020"), 0.03, 0.09, contrast=2)).endswith(
        "not reproduced: ours - theirs = +1.83 pp [1.63, 2.03], not 0 (p < 0.001)"
    )


@pytest.mark.parametrize(
    ("reported", "message"),
    [
        (
            ("relu: after - befor", 1.0, "Doe"),
            r"which is no contrast of the run.*mean 'relu: after - before'\?",
        ),
        (
            (RELU, 1.0, "Doe", 1, 0.5),
            r"^Doe has sd 0.5 of n = 1 trainings; a standard deviation needs 2 or more",
        ),
        ((RELU, 1.0, "Doe", 5, -0.5), r"^Doe has sd -0.5"),
    ],
)
def test_what_cannot_be_judged_is_refused(reported, message):
    with pytest.raises(ConfigError, match=message):
        one(Published(*reported), 1.0)
    assert judge_published([], [], alpha=0.05) == []
