"""experiments.analysis.plan: what is trained next depends on validation data and on what is there, on nothing else."""

import dataclasses

import numpy as np
import pytest
from simulated import peak, record, simulate

from experiments.analysis.plan import at_end, plan
from experiments.analysis.race import first_round, survivors
from experiments.analysis.scores import Setting, by_key
from experiments.config import Arm, Config, ConfigError, SweepConfig

CONFIG = Config(
    "planned", activations=("relu",), sweep=SweepConfig(lowest_learning_rate=2.0**-6, learning_rate_points=7, seeds=12)
)
RATES = CONFIG.sweep.learning_rates


def changed(**sweep):
    return dataclasses.replace(CONFIG, sweep=dataclasses.replace(CONFIG.sweep, **sweep))


def trained(records):
    """Seeds by arm and rate."""
    found = {}
    for arm, setting, seed in by_key(records):
        found.setdefault((arm, setting.learning_rate), set()).add(seed)
    return found


def test_the_first_round_is_every_rate_with_a_quarter_of_the_seeds():
    first = plan(CONFIG, [], 12)
    assert (first.first_seeds, first.rates) == (3, RATES)
    assert {arm: len(keys) for arm, keys in first.missing.items()} == dict.fromkeys(CONFIG.arms, 7 * 3)
    assert {seed for keys in first.missing.values() for _, seed in keys} == {0, 1, 2}
    assert plan(CONFIG, [], 40).first_seeds == 10 == first_round(40)


def test_rates_that_the_race_leaves_get_all_seeds_and_the_others_none():
    records = simulate(CONFIG, peak(95, rate=0.1))
    found = trained(records)
    for arm in CONFIG.arms:
        validation = [[100 * r["val_accuracy"][-1] for rate in RATES for r in records
                       if (Arm(r["treatment"], r["context"]), r["learning_rate"], r["seed"]) == (arm, rate, seed)]
                      for seed in range(3)]  # fmt: skip
        on = survivors(validation)
        assert 3 <= on.sum() < 7
        assert [len(found[arm, rate]) for rate in RATES] == [12 if alive else 3 for alive in on]
    assert plan(CONFIG, records, 12).missing == {}


def test_without_a_race_every_seed_is_trained_at_every_rate():
    assert set(map(len, trained(simulate(changed(race=False), peak(95))).values())) == {12}


def test_the_grid_grows_for_all_arms_until_no_arm_chooses_its_end():
    def truth(arm, setting):  # one arm has its optimum two rates above the grid
        return peak(95, rate=4 * RATES[-1] if arm.treatment == "after" else 0.1, width=2.0)(arm, setting)

    records = simulate(CONFIG, truth, sd=0.1)
    found = plan(CONFIG, records, 12)
    assert found.rates == CONFIG.sweep.extended(0, 3), "the optimum itself, and a rate above it that is worse"
    at = {arm: {rate for other, rate in trained(records) if other == arm} for arm in CONFIG.arms}
    assert set(map(frozenset, at.values())) == {frozenset(found.rates)}, "the same grid for every arm"
    after = Arm("after", "relu")
    assert len(trained(records)[after, 4 * RATES[-1]]) == 12
    assert len(trained(records)[Arm("before", "relu"), found.rates[-1]]) == 3, "the race drops it where it is bad"


@pytest.mark.parametrize(("rate", "lower", "higher"), [(2.0**-12, 2, 0), (2.0**8, 0, 2)])
def test_the_grid_grows_up_to_its_limit(rate, lower, higher):
    config = changed(learning_rate_extension=2)
    assert plan(config, simulate(config, peak(95, rate, 20.0), sd=0.1), 12).rates == config.sweep.extended(
        lower, higher
    )
    still = changed(learning_rate_extension=0)
    assert plan(still, simulate(still, peak(95, rate, 20.0), sd=0.1), 12).rates == RATES


def test_an_interrupted_run_plans_what_an_uninterrupted_one_does():
    records = simulate(CONFIG, peak(95, rate=RATES[-1]))
    rng = np.random.default_rng(0)
    for _ in range(5):
        some = [records[k] for k in rng.permutation(len(records))[: rng.integers(len(records))]]
        again = simulate(CONFIG, peak(95, rate=RATES[-1]), records=some)
        assert sorted(map(str, again)) == sorted(map(str, records))


def test_a_run_that_goes_on_with_more_seeds_ends_as_one_that_began_with_them():
    def complete(records):
        return {key for key, seeds in trained(records).items() if len(seeds) == 24}

    longer = changed(seeds=24)
    extended = simulate(longer, peak(95), records=simulate(CONFIG, peak(95)))
    assert complete(extended) == complete(simulate(longer, peak(95)))
    assert plan(longer, extended, 24).missing == {}


def test_test_accuracy_plays_no_part():
    records = simulate(CONFIG, peak(95, rate=RATES[-1]))
    worse = [r | {"test_accuracy": 0.0, "test_loss": 9.0} for r in records]
    assert plan(CONFIG, worse[:70], 12) == plan(CONFIG, records[:70], 12)
    assert plan(CONFIG, worse, 12) == plan(CONFIG, records, 12)


def test_decays_are_settings_too_and_do_not_grow():
    config = changed(weight_decays=(0.0, 1e-3), decay_scale_bias=(False, True), learning_rate_extension=0)
    assert len(plan(config, [], 12).missing[config.arms[0]]) == 7 * 4 * 3
    settings = [Setting(rate, decay, False) for rate in (1.0, 2.0, 4.0) for decay in (0.0, 1e-3)]
    assert at_end(settings, (1.0, 2.0, 4.0), (0.0, 1e-3)).tolist() == [True, True, False, True, True, True]
    assert at_end(settings, (1.0, 2.0, 4.0), (1e-3,)).tolist() == [True, True, False, False, True, True]


def test_a_training_that_is_there_twice_is_refused():
    twice = [record(CONFIG.arms[0], Setting(0.5, 0.0, True), 1, 90.0)] * 2
    with pytest.raises(ConfigError, match=r"none/relu at rate 0.5 with seed 1 twice; delete one of the two lines"):
        plan(CONFIG, twice, 12)


def test_trainings_that_are_repeated_for_their_probes_do_not_count():
    records = simulate(CONFIG, peak(95))
    probed = [r | {"phase": "probe", "val_accuracy": [0.0, 0.0]} for r in records[:5]]
    assert plan(CONFIG, [*probed, *records], 12) == plan(CONFIG, records, 12)
    assert plan(CONFIG, probed, 12) == plan(CONFIG, [], 12)
