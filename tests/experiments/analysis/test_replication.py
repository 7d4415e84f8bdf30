"""experiments.analysis.replication: the declared rule, case by case, on both sides of 0."""

import numpy as np
import pytest

from experiments.analysis.comparison import compare
from experiments.analysis.replication import judge, row
from experiments.config import Published


def ours(difference: float, half: float, n: int = 12):
    """A comparison whose 95% interval is difference ± half."""
    noise = np.resize([-1.0, 0.0, 2.0, -1.5, 0.5], n)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    c = compare(90 + difference + noise, np.full(n, 90.0), margin_pp=0.5, alpha=0.05, resamples=99)
    scale = half / (c.ci[1] - c.difference)
    c = compare(90 + difference + scale * noise, np.full(n, 90.0), margin_pp=0.5, alpha=0.05, resamples=99)
    assert c.ci == pytest.approx((difference - half, difference + half))
    return c


CASES = [
    # published, our difference, half the width: verdict, sign, size
    (2.0, 1.8, 0.4, "reproduced", "reproduced", "reproduced"),
    (2.0, 3.0, 1.2, "reproduced", "reproduced", "reproduced"),
    (2.0, 1.0, 0.55, "reproduced", "reproduced", "reproduced"),  # does not contain 2, but comes within the margin of it
    (2.0, 1.0, 0.45, "reproduced in sign only", "reproduced", "not reproduced"),
    (2.0, 5.0, 1.0, "reproduced in sign only", "reproduced", "not reproduced"),
    (2.0, -1.0, 0.5, "not reproduced", "not reproduced", "not reproduced"),
    (0.7, -1.0, 0.9, "not reproduced", "not reproduced", "not reproduced"),
    (2.0, 0.0, 0.1, "not reproduced", "undecided", "not reproduced"),  # equivalent
    (2.0, 0.2, 0.1, "not reproduced", "reproduced", "not reproduced"),  # equivalent, though of the same sign
    (0.6, 0.2, 0.1, "not reproduced", "reproduced", "reproduced"),  # equivalent, and also near the published difference
    (2.0, -0.3, 0.6, "not reproduced", "undecided", "not reproduced"),  # not equivalent, but no difference of that sign
    (2.0, 0.6, 1.0, "undecided", "undecided", "undecided"),
    (5.0, 0.6, 1.0, "undecided", "undecided", "not reproduced"),
    (0.3, 0.0, 0.2, "reproduced", None, None),
    (0.0, 0.2, 0.1, "reproduced", None, None),
    (0.3, 1.5, 0.6, "not reproduced", None, None),
    (0.3, -1.5, 0.6, "not reproduced", None, None),
    (0.3, 0.6, 0.4, "undecided", None, None),
    (0.5, 0.0, 2.0, "undecided", None, None),  # as large as the margin: no difference was reported
]


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize(("published", "difference", "half", "verdict", "sign", "size"), CASES)
def test_the_rule(published, difference, half, verdict, sign, size, side):
    judged = judge(side * published, ours(side * difference, half), margin_pp=0.5, alpha=0.05)
    assert (judged.verdict, judged.sign, judged.size) == (verdict, sign, size)


def test_the_reason_says_how_far_apart_the_sizes_are_at_least():
    assert judge(7.4, ours(1.0, 0.2), margin_pp=0.5, alpha=0.05).reason == (
        "same sign; ours is smaller than the published by 6.20 pp at least"
    )
    assert judge(-2.0, ours(-5.0, 1.0), margin_pp=0.5, alpha=0.05).reason == (
        "same sign; ours is larger than the published by 2.00 pp at least"
    )


def test_an_interval_that_ends_at_0_on_the_other_side_contradicts_the_sign():
    c = ours(-1.0, 0.5)._replace(ci=(-2.0, 0.0))
    assert judge(2.0, c, margin_pp=0.5, alpha=0.05).verdict == "not reproduced"
    assert judge(-2.0, c, margin_pp=0.5, alpha=0.05).verdict == "undecided"
    assert judge(-2.0, c, margin_pp=3.0, alpha=0.05).verdict != "not reproduced"  # 2 is within the margin there


def test_the_row_quotes_the_source_and_both_differences():
    entry = row(
        Published("after", "before", "tanh", 7.4, "Kim et al. 2023", n=3), ours(1.0, 0.2), margin_pp=0.5, alpha=0.05
    )
    assert entry["sentence"] == (
        "tanh: after - before: published +7.40 pp (Kim et al. 2023, n = 3), ours +1.00 pp, 95% CI [0.80, 1.20], "
        "n = 12: reproduced in sign only: same sign; ours is smaller than the published by 6.20 pp at least"
    )
    assert (entry["published"], entry["difference"], entry["ci"]) == (
        7.4,
        pytest.approx(1.0),
        pytest.approx([0.8, 1.2]),
    )
