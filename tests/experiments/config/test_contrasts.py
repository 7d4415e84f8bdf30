"""Which contrasts a run has, and which are refused."""

from itertools import product

import pytest

from experiments.config import Arm, ConfigError, Contrast, Question
from experiments.config.contrasts import questions

ARMS = [Arm(*names) for names in product(("before", "after", "none"), ("relu", "tanh", "sigmoid"))]
POOLING = [Arm(f"{place}{pooling}", "relu") for place in ("before", "after") for pooling in ("", ", pool first")]


def weights(contrast: Question) -> dict[str, float]:
    return {str(arm): weight for arm, weight in contrast.weights.items()}


def value(contrast: Question, accuracies: dict[str, float]) -> float:
    return sum(weight * accuracies[arm] for arm, weight in weights(contrast).items())


def test_each_pair_is_compared_in_each_context_and_over_each_two_contexts():
    found = questions(ARMS, [("after", "before"), ("before", "none")])
    simple, interactions = ([c for c in found if c.kind == kind] for kind in ("simple", "interaction"))
    assert len(simple) == 2 * 3 and len(interactions) == 2 * 3 and found == simple + interactions
    assert [c.name for c in simple[:3]] == [f"{c}: after - before" for c in ("relu", "tanh", "sigmoid")]
    assert weights(simple[4]) == {"before/tanh": 1, "none/tanh": -1}
    assert simple[4].says == ("before is better", "none is better")
    assert [c.primary for c in found] == [True] * 6 + [False] * 6, "interactions that nobody declared explore"
    assert all(c.margin_pp is None and not c.same_arm for c in found)


def test_an_interaction_is_the_difference_of_two_differences_and_says_where_it_is_larger():
    (found,) = (
        c for c in questions(ARMS, [("after", "before")]) if c.name.endswith("in relu) - (the same in sigmoid)")
    )
    accuracies = {"after/relu": 95.0, "before/relu": 94.0, "after/sigmoid": 90.0, "before/sigmoid": 91.5}
    assert value(found, accuracies) == (95 - 94) - (90 - 91.5)
    assert found.says[0] == "after - before is larger in relu than in sigmoid"
    assert found.says[1] == "after - before is larger in sigmoid than in relu"


def test_a_pair_is_compared_where_both_are_trained_and_only_once():
    arms = [arm for arm in ARMS if arm != Arm("none", "tanh")]
    found = questions(arms, [("before", "none"), ("before", "none")])
    assert [c.name for c in found] == [
        "relu: before - none",
        "sigmoid: before - none",
        "(before - none in relu) - (the same in sigmoid)",
    ]


def test_an_aa_test_has_no_interactions_and_says_that_it_is_one():
    arms = [Arm(t, c) for t in ("after", "after again") for c in ("relu", "tanh")]
    found = questions(arms, [("after", "after again")], same_arms=[("after", "after again")])
    assert [(c.kind, c.same_arm) for c in found] == [("simple", True)] * 2


@pytest.mark.parametrize("sign", [1, -1])
def test_an_aa_test_that_is_declared_stays_one(sign):
    arms = [Arm(t, c) for t in ("after", "after again", "before") for c in ("relu", "tanh")]
    declared = [
        Contrast("twice", {"after/relu": sign, "after again/relu": -sign}),
        Contrast("contexts", {"after/relu": 1, "after again/tanh": -1}),
        Contrast("treatments", {"after/relu": 1, "before/relu": -1}),
    ]
    found = questions(arms, [], declared, same_arms=[("after", "after again")])
    assert [c.same_arm for c in found] == [True, False, False]


def test_a_declared_contrast_comes_first_with_what_it_declares():
    crossed = {"after, pool first/relu": 1, "before, pool first/relu": -1, "after/relu": -1, "before/relu": 1}
    declared = Contrast("placement x pooling", crossed, primary=False, margin_pp=2.0)
    first, *rest = questions(POOLING, [("after", "before")], [declared])
    assert (first.name, first.kind, first.primary, first.margin_pp) == (
        "placement x pooling",
        "interaction",
        False,
        2.0,
    )
    assert weights(first) == crossed and first.says == (
        "placement x pooling is above 0",
        "placement x pooling is below 0",
    )
    assert [c.name for c in rest] == ["relu: after - before"]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_declared_contrast_takes_the_place_of_one_that_asks_the_same(sign):
    declared = Contrast("the old question", {"after/tanh": sign, "before/tanh": -sign}, primary=False)
    found = questions(ARMS, [("after", "before")], [declared])
    assert [c.name for c in found[:3]] == ["the old question", "relu: after - before", "sigmoid: after - before"]
    assert len(found) == 6 and found[0].says[0 if sign > 0 else 1] == "after is better"


def test_kinds_follow_the_weights():
    third = {f"{t}/{c}": s / 3 for t, s in (("after", 1), ("before", -1)) for c in ("relu", "tanh", "sigmoid")}
    mean, other, simple = questions(
        ARMS,
        [],
        [
            Contrast("on average", third),
            Contrast("norm at all", {"after/relu": 0.5, "before/relu": 0.5, "none/relu": -1, "none/tanh": 0}),
            Contrast("activation", {"after/relu": 1, "after/tanh": -1}),
        ],
    )
    uneven = {"after/relu": 0.5, "after/tanh": 0.5, "before/relu": -1}
    (across,) = questions(ARMS, [], [Contrast("across", uneven)])
    assert across.says[0] == "across is above 0", "before is not averaged over both activations"
    assert (mean.kind, other.kind, simple.kind) == ("mean", "mean", "simple")
    assert mean.says[1] == "before is better on average over relu, tanh and sigmoid"
    assert other.says[0] == "norm at all is above 0" and len(other.weights) == 3
    assert simple.says == ("after/relu is better", "after/tanh is better")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            {"x": {"after/rely": 1, "before/relu": -1}},
            r"no arm of the run; write treatment/context.*mean 'after/relu'\?",
        ),
        ({"x": {"after/relu": 1, "before/relu": -0.5}}, r"the weights of contrast 'x' sum to 0.5; they must sum to 0"),
        ({"x": {"after/relu": float("nan"), "before/relu": -1}}, r"is nan; input should be a finite number"),
        ({"x": {"after/relu": 0}}, r"contrast 'x' has no weight that is not 0"),
        ({"x": {}}, r"contrast 'x' has no weight that is not 0"),
        (
            {"x": {"after/relu": 3, "before/relu": -3}},
            r"the positive weights of contrast 'x' sum to 3; they must sum to 1",
        ),
        ({"x": {"after/relu": 2, "before/relu": -2}}, r"sum to 2; they must sum to 1"),
        (
            {"x": {"after/relu": 1, "before/relu": -1}, "y": {"after/relu": -1, "before/relu": 1}},
            r"^contrasts 'x' and 'y' have the same weights, but for their sign",
        ),
        ({"relu: after - none": {"before/relu": 1, "before/tanh": -1}}, r"has by itself; choose another name$"),
    ],
)
def test_what_cannot_be_read_is_refused(declared, message):
    with pytest.raises(ConfigError, match=message):
        questions(ARMS, [("after", "none")], [Contrast(*item) for item in declared.items()])


def test_two_names_or_a_margin_of_no_width_are_refused():
    one, other = {"after/relu": 1, "before/relu": -1}, {"after/tanh": 1, "before/tanh": -1}
    with pytest.raises(ConfigError, match=r"^two contrasts have the name 'x'"):
        questions(ARMS, [], [Contrast("x", one), Contrast("x", other)])
    with pytest.raises(ConfigError, match=r"margin_pp 0; choose one above 0"):
        questions(ARMS, [], [Contrast("x", one, margin_pp=0.0)])
