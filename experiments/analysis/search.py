"""The search of a run that has all its trainings: which settings were tried, and which are chosen how often."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from experiments.analysis.bagging import Bagged, Scores, bag
from experiments.analysis.plan import at_end, plan
from experiments.analysis.scores import Record, Setting, by_key, grid, scores
from experiments.config import Arm, Config, ConfigError


class Search(NamedTuple):
    """How the settings of all arms were searched, and what came of it."""

    rates: tuple[float, ...]
    """The grid of learning rates as grown."""
    first_seeds: int
    settings: dict[Arm, tuple[Setting, ...]]
    scores: dict[Arm, Scores]
    bagged: Bagged[Arm]
    end_shares: dict[Arm, float]
    """Share of the bags that choose an end of the grid."""

    def chosen(self, arm: Arm) -> Setting:
        """The setting that most bags choose."""
        return self.settings[arm][self.bagged.arms[arm].most_chosen]


def search(config: Config, records: Iterable[Record], seeds: int) -> Search:
    """The search of a run that has all its trainings.

    Raises:
      ConfigError: a training is missing, or there twice.
    """
    records = list(records)
    found, trained = plan(config, records, seeds), by_key(records)
    if found.missing:
        arm, keys = next(iter(found.missing.items()))
        count = sum(map(len, found.missing.values()))
        raise ConfigError(
            f"{count} trainings are missing, such as {arm} at {keys[0][0]} with seed {keys[0][1]}; go on with: "
            "python -m experiments run CONFIG"
        )
    settings = {arm: grid(config, arm, found.rates) for arm in config.arms}
    of_arm = {
        arm: scores(trained, arm, settings[arm], config.seeds(arm)[:seeds], config.analysis.metric)
        for arm in config.arms
    }
    bagged = bag(of_arm)
    ends = {}
    for arm in config.arms:
        decays = config.sweep.weight_decays or (config.setup(arm).optimizer.weight_decay,)
        ends[arm] = float(bagged.arms[arm].shares[at_end(settings[arm], found.rates, decays)].sum())
    return Search(found.rates, found.first_seeds, settings, of_arm, bagged, ends)
