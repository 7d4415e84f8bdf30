"""Warnings that a reader must know before trusting the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from experiments.analysis.tuning import Choice, Record, diverged
from experiments.analysis.verdict import Contrast, finding
from experiments.config import Arm, Config
from experiments.formatting import join

PUBLISHABLE_SEEDS, PUBLISHABLE_TUNING_SEEDS, PUBLISHABLE_RATES = 10, 3, 7


def warnings(
    config: Config,
    choices: Mapping[Arm, Choice],
    runs: Mapping[Arm, Sequence[Record]],
    contrasts: Sequence[Contrast],
) -> list[str]:
    """Warns of optima at the ends of the grids, divergence, few seeds, overlapping seeds, and failed A/A tests."""
    found = _rates(config, choices) + _decays(config, choices)
    for arm, records in runs.items():
        if diverged(records):
            found.append(
                f"{diverged(records)} of {len(records)} evaluation trainings of {arm} diverged; each counts with the "
                "test accuracy that it ended at"
            )
    if config.sweep.evaluation_seeds < PUBLISHABLE_SEEDS:
        found.append(
            f"only {config.sweep.evaluation_seeds} evaluation seeds; a result to publish needs {PUBLISHABLE_SEEDS} or "
            f"more: --sweep.evaluation-seeds {PUBLISHABLE_SEEDS}"
        )
    return found + _small_search(config) + _few_pairs(contrasts) + _overlaps(config) + _false_differences(contrasts)


def _small_search(config: Config) -> list[str]:
    """Warns if tuning used so few seeds or rates that chance decides; one warning covers both."""
    sweep = config.sweep
    few = [
        f"{count} {what}"
        for count, what, enough in (
            (sweep.tuning_seeds, "tuning seed" + "s" * (sweep.tuning_seeds > 1), PUBLISHABLE_TUNING_SEEDS),
            (sweep.learning_rate_points, "learning rates", PUBLISHABLE_RATES),
        )
        if count < enough
    ]
    if not few:
        return []
    return [
        f"the rates were chosen with {join(few)} (to publish: {PUBLISHABLE_TUNING_SEEDS} seeds and {PUBLISHABLE_RATES} "
        "rates, a factor 2 apart), so an arm's rate may be a neighbour of its best; the intervals do not know of that"
    ]


def _few_pairs(contrasts: Sequence[Contrast]) -> list[str]:
    """Warns of contrasts with too few pairs for a permutation test to reach the level."""
    least = {c.comparison.n: 2.0 ** (1 - c.comparison.n) for c in contrasts if c.comparison.paired}
    return [
        f"with {n} pairs the permutation test's p cannot fall below {p:.3g}, which is above {contrasts[0].alpha:g}: "
        "its column says nothing here, and the t intervals rest on differences being about normal"
        for n, p in sorted(least.items())
        if p > contrasts[0].alpha
    ]


def _rates(config: Config, choices: Mapping[Arm, Choice]) -> list[str]:
    sweep, found = config.sweep, []
    edges = Counter(choice.edge for choice in choices.values())
    more = 2 * sum(edges[edge] > 0 for edge in ("lowest", "highest"))
    points = f"--sweep.learning-rate-points {sweep.learning_rate_points + more}"
    lower = f"--sweep.lowest-learning-rate {sweep.learning_rates[0] / sweep.learning_rate_factor**2!r} {points}"
    for edge, rate, where, flags in (
        ("lowest", sweep.learning_rates[0], "downwards", lower),
        ("highest", sweep.learning_rates[-1], "upwards", lower if edges["lowest"] else points),
    ):
        arms = [str(arm) for arm, choice in choices.items() if choice.edge == edge]
        if arms:
            found.append(
                f"the optimum of {join(arms)} lies at the {edge} rate of the grid ({rate:g}), so the true one may lie "
                f"beyond and {'this arm' if len(arms) == 1 else 'these arms'} may be better than shown; extend the "
                f"grid {where}: {flags}"
            )
    return found


def _decays(config: Config, choices: Mapping[Arm, Choice]) -> list[str]:
    decays, found = config.sweep.weight_decays, []
    edges = {choice.weight_decay_edge for choice in choices.values()}
    longer = [*decays]
    if "lowest" in edges:
        longer = [0.0, *longer]
    if "highest" in edges:
        longer.append(float(f"{decays[-1] * (decays[-1] / decays[-2] if decays[-2] > 0 else 10):.3g}"))
    flags = f"--sweep.weight-decays {' '.join(f'{decay!r}' for decay in longer)}"
    for edge in ("lowest", "highest"):
        arms = [str(arm) for arm, choice in choices.items() if choice.weight_decay_edge == edge]
        if arms:
            found.append(
                f"the optimum of {join(arms)} lies at the {edge} weight decay tried "
                f"({decays[0 if edge == 'lowest' else -1]:g}), so a {'lower' if edge == 'lowest' else 'higher'} one "
                f"may be better; add to the list: {flags}"
            )
    return found


def _overlaps(config: Config) -> list[str]:
    """Warns of contrasts whose arms share some, but not all, of their tuning and evaluation seeds."""
    seeds = {arm.treatment: config.seeds(arm) for arm in config.arms}
    found = []
    for a, b in config.contrasts:
        if seeds[a] != seeds[b] and set(sum(seeds[a], ())) & set(sum(seeds[b], ())):
            last = max(max(evaluation) for _, evaluation in seeds.values())
            found.append(
                f"{a} and {b} have some seeds in common, so they are neither paired nor independent; write a "
                f"first_seed of {last + 1} or more"
            )
    return found


def _false_differences(contrasts: Sequence[Contrast]) -> list[str]:
    failed = [c for c in contrasts if finding(c) == "same_arm_differs"]
    return [
        f"the A/A test of {c.a} and {c.b} finds a difference in {c.context} where there is none, which happens by "
        f"chance in {100 * c.alpha:g} of 100 such tests; if it is not chance, the other differences "
        "are too sure of themselves"
        for c in failed
    ]
