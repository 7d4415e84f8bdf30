"""Warnings that a reader must know before trusting the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.analysis.answers import Answer
from experiments.analysis.arms import diverged, knows_chance
from experiments.analysis.findings import finding
from experiments.analysis.learned import Learned, describe
from experiments.analysis.looks import Look
from experiments.analysis.plan import MOST_AT_END
from experiments.analysis.scores import Trained
from experiments.analysis.search import Search
from experiments.config import Arm, Config
from experiments.formatting import join

PUBLISHABLE_SEEDS, PUBLISHABLE_RATES = 12, 7


def warnings(
    config: Config,
    found: Search,
    trained: Trained,
    answers: Sequence[Answer],
    learned: Mapping[Arm, Learned],
    data: Mapping[str, Any],
    look: Look,
    undeclared: Sequence[int],
) -> list[str]:
    """Warns of optima at the ends of the grids, failed trainings, few seeds, undeclared looks, and failed A/A tests."""
    return [
        *_undeclared(look, undeclared),
        *_rates(config, found),
        *_decays(config, found),
        *_failed(config, found, trained, learned, look.alpha),
        *_chance(data),
        *_few(config, look),
        *_false_differences(answers),
    ]


def _undeclared(look: Look, before: Sequence[int]) -> list[str]:
    if not before:
        return []
    return [
        f"the run was finished with {join([str(n) for n in before])} seeds before it went on to {look.seeds}, which "
        "sweep.looks had not declared; if that was decided by what it showed, p values and intervals are too sure of "
        "themselves"
    ]


def _rates(config: Config, found: Search) -> list[str]:
    said = []
    for end, name, where in ((0, "lowest", "downwards"), (-1, "highest", "upwards")):
        rate = found.rates[end]
        arms = [
            f"{arm} (in {100 * share:.0f}% of its bags)"
            for arm in config.arms
            if (share := _share(found, arm, learning_rate=rate)) >= MOST_AT_END
        ]
        if arms:
            one = len(arms) == 1
            said.append(
                f"{join(arms)} {'chooses' if one else 'choose'} the {name} rate of the grid ({rate:g}), so the true "
                f"optimum may lie beyond and {'this arm' if one else 'these arms'} may be better than shown; let the "
                f"grid grow {where}: --sweep.learning-rate-extension {config.sweep.learning_rate_extension + 3}"
            )
    return said


def _decays(config: Config, found: Search) -> list[str]:
    decays, said = config.sweep.weight_decays, []
    if len(decays) < 2:
        return []
    further = f"{decays[-1] * (decays[-1] / decays[-2] if decays[-2] > 0 else 10):.3g}"
    for decay, name, longer in (
        (decays[0], "lowest", ["0.0", *map(repr, decays)]),
        (decays[-1], "highest", [*map(repr, decays), further]),
    ):
        arms = [str(arm) for arm in config.arms if _share(found, arm, weight_decay=decay) >= MOST_AT_END]
        if arms and decay:
            said.append(
                f"{join(arms)} {'chooses' if len(arms) == 1 else 'choose'} the {name} weight decay tried ({decay:g}), "
                f"so a {'lower' if name == 'lowest' else 'higher'} one may be better; add to the list: "
                f"--sweep.weight-decays {' '.join(longer)}"
            )
    return said


def _share(found: Search, arm: Arm, **values: float) -> float:
    """The share of the arm's bags that choose a setting with these values."""
    chosen = [all(getattr(s, name) == value for name, value in values.items()) for s in found.settings[arm]]
    return float(found.bagged.arms[arm].shares[chosen].sum())


def _failed(config: Config, found: Search, trained: Trained, learned: Mapping[Arm, Learned], alpha: float) -> list[str]:
    said = []
    for arm in config.arms:
        runs = [trained[arm, found.chosen(arm), seed] for seed in found.scores[arm].seeds]
        lost = f"{diverged(runs)} of {len(runs)} diverged; " if diverged(runs) else ""
        if lost or learned[arm].count < learned[arm].n:
            said.append(
                f"{arm} at {found.chosen(arm)}: {lost}{describe(learned[arm], alpha)}; each training counts with the "
                "test accuracy that it ended at"
            )
    return said


def _chance(data: Mapping[str, Any]) -> list[str]:
    if knows_chance(data):
        return []
    return [
        f"with {data['test']} test examples nobody can tell a network that learned from one that guesses, so all count "
        "as having learned; use more test examples"
    ]


def _few(config: Config, look: Look) -> list[str]:
    few = []
    if look.seeds < PUBLISHABLE_SEEDS:
        few.append(f"{look.seeds} seeds (to publish: {PUBLISHABLE_SEEDS} or more: --sweep.seeds {PUBLISHABLE_SEEDS})")
    if config.sweep.learning_rate_points < PUBLISHABLE_RATES:
        few.append(
            f"{config.sweep.learning_rate_points} learning rates to begin with (to publish: {PUBLISHABLE_RATES} or more"
            ", a factor 2 apart)"
        )
    return [f"this run has only {join(few)}"] if few else []


def _false_differences(answers: Sequence[Answer]) -> list[str]:
    failed = [answer.widest for answer in answers if finding(answer.widest) == "same_arm_differs"]
    return [
        f"the A/A test {judged.contrast.name} finds a difference where there is none, which happens by chance in "
        f"{100 * judged.alpha:g} of 100 such tests; if it is not chance, the other differences are too sure of "
        "themselves"
        for judged in failed
    ]
