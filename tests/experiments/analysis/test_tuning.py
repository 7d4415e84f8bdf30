"""experiments.analysis.tuning: every arm gets the best point of the same grid, by validation data alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import synthetic

from experiments.analysis import stats, tuning
from experiments.config import Arm, ConfigError, vary

CONFIG = synthetic.CONFIG
ARM = Arm("before", "relu")


def tuning_record(point: tuning.Point, accuracy: float, loss: float | None, seed: int) -> dict:
    return {
        "phase": "tune", "treatment": "before", "context": "relu", "seed": seed, **point._asdict(),
        "diverged": 0 if loss is None else None, "val_accuracy": [0.99, accuracy], "val_loss": [9, loss],
    }  # fmt: skip


def choice_of(values: list[list[tuple[float, float | None]]], **sweep) -> tuning.Choice:
    """The choice of one arm whose points of the grid end at `values`: [point][seed](accuracy, loss)."""
    config = replace(CONFIG, placements=("before",), activations=("relu",), sweep=replace(CONFIG.sweep, **sweep))
    grid = tuning.grid(config, ARM)
    assert len(grid) == len(values)
    records = [
        tuning_record(p, *value, seed) for p, row in zip(grid, values, strict=True) for seed, value in enumerate(row)
    ]
    return tuning.choose(config, records[::-1])[ARM]


def rates(*rows: tuple[float, float | None]) -> list[list[tuple[float, float | None]]]:
    return [[row, row] for row in rows]


def test_choose_takes_the_highest_mean_final_validation_accuracy():
    choice = choice_of([[(0.9, 1), (0.8, 1)], [(0.7, 1), (0.9, 1)], [(0.99, 1), (0.1, 1)], *rates((0.8, 1), (0.8, 0))])
    assert (choice.grid_index, choice.learning_rate, choice.edge) == (0, CONFIG.sweep.learning_rates[0], "lowest")
    first = choice.curve[0]
    assert first["values"] == [90, 80]
    assert (first["mean"], first["sd"]) == pytest.approx((85, math.sqrt(50)))


def test_choose_breaks_a_tie_by_validation_loss_even_if_the_means_round_differently():
    # Of 269 validation examples, 232 + 268 equals 231 + 269, but the floating-point means differ.
    higher, lower = [(232 / 269, 2.0), (268 / 269, 2.0)], [(231 / 269, 1.0), (269 / 269, 2.0)]
    assert np.mean([100 * v for v, _ in higher]) > np.mean([100 * v for v, _ in lower])
    for tied, best in ([higher, lower], 1), ([lower, higher], 0):
        assert choice_of([*tied, *rates((0.5, 0), (0.5, 0), (0.5, 0))]).grid_index == best


def test_choose_puts_a_diverged_loss_last_and_the_lower_rate_first():
    assert choice_of(rates((0.1, 1), (0.5, None), (0.5, 7), (0.5, 7), (0.5, None))).grid_index == 2
    assert choice_of(rates(*[(0.1, None)] * 5)).grid_index == 0


@pytest.mark.parametrize(("best", "edge"), [(0, "lowest"), (1, None), (3, None), (4, "highest")])
def test_choose_says_when_the_optimum_lies_at_an_end_of_the_grid(best, edge):
    assert choice_of(rates(*[(0.9 if i == best else 0.5, 1) for i in range(5)])).edge == edge


def test_choose_reads_nothing_but_tuning_records():
    records = synthetic.records(CONFIG)
    tuned = [r for r in records if r["phase"] == "tune"]
    assert tuning.choose(CONFIG, records) == tuning.choose(CONFIG, tuned)
    # Other records of the same points and seeds, with opposite results, change nothing.
    others = [r | {"phase": "evaluate", "val_accuracy": [1 - v for v in r["val_accuracy"]]} for r in tuned]
    assert tuning.choose(CONFIG, others + tuned) == tuning.choose(CONFIG, tuned)


def test_choose_reads_validation_data_alone():
    records = synthetic.records(CONFIG)
    told = [r | {"test_accuracy": 1 - r["val_accuracy"][-1], "test_loss": -r["val_loss"][-1]} for r in records]
    assert tuning.choose(CONFIG, told) == tuning.choose(CONFIG, records)


def test_a_missing_or_repeated_record_is_refused_in_one_line():
    records = synthetic.records(CONFIG)
    with pytest.raises(ConfigError, match=r"^1 of 90 tune records are missing.*none/relu at .* with seed 0; [^\n]*$"):
        tuning.choose(CONFIG, records[1:])
    with pytest.raises(ConfigError, match=r"^1 of 54 evaluate records are missing.*after/sigmoid at .* with seed 7;"):
        stats.summarize(CONFIG, records[:-1])
    with pytest.raises(ConfigError, match=r"^the tune records hold none/relu at .* twice; delete one"):
        tuning.choose(CONFIG, [*records, records[0]])


# Decay.

DECAYS = {"learning_rate_points": 2, "weight_decays": (0.0, 1e-4, 1e-3), "decay_scale_bias": (False, True)}


def at(*, best: int, points: int = 12, second: int | None = None) -> list[list[tuple[float, float | None]]]:
    return rates(*[(0.9, 1) if i == best else (0.9, 2) if i == second else (0.5, 1) for i in range(points)])


def test_the_grid_is_the_product_of_rates_decays_and_what_decays():
    config = replace(CONFIG, sweep=replace(CONFIG.sweep, **DECAYS))
    grid = tuning.grid(config, ARM)
    low, high = config.sweep.learning_rates
    assert grid[:3] == ((low, 0.0, False), (low, 0.0, True), (low, 1e-4, False))
    assert len(set(grid)) == 12 and grid[-1] == (high, 1e-3, True)
    assert tuning.grid(CONFIG, ARM) == tuple((rate, 0.0, False) for rate in CONFIG.sweep.learning_rates)


@pytest.mark.parametrize("best", range(12))
def test_choose_finds_the_best_point_and_its_curve_is_over_rates_at_its_decay(best):
    choice = choice_of(at(best=best), **DECAYS)
    point = tuning.Point(*choice[:3])
    rate_index, decay_index = divmod(best, 6)
    assert (choice.grid_index, point.weight_decay, point.decay_scale_bias) == (
        rate_index, DECAYS["weight_decays"][decay_index // 2], bool(decay_index % 2)
    )  # fmt: skip
    assert [p["mean"] for p in choice.curve] == [90 if i == rate_index else 50 for i in range(2)]
    assert [p["mean"] for p in choice.grid] == [90 if i == best else 50 for i in range(12)]
    chosen = [p for p in choice.grid if p["mean"] == 90]
    assert [(p["learning_rate"], p["weight_decay"], p["decay_scale_bias"]) for p in chosen] == [point]
    assert choice.weight_decay_edge == (None, None, "highest")[decay_index // 2]  # no decay is not an edge


def test_a_tie_goes_to_the_lower_loss_then_the_lower_rate_then_the_lower_decay():
    assert choice_of(at(best=9, second=2), **DECAYS)[:3] == choice_of(at(best=9), **DECAYS)[:3]
    tied = rates(*[(0.9, 1)] * 12)
    assert choice_of(tied, **DECAYS)[1:4] == (0.0, False, 0)
    reverse = DECAYS | {"decay_scale_bias": (True, False)}
    assert choice_of(tied, **reverse)[1:4] == (0.0, True, 0)  # the setting that is named first wins
    later = rates(*[(0.5, 1)] * 4, (0.9, 1), (0.5, 1), (0.9, 1), *[(0.5, 1)] * 5)
    assert choice_of(later, **DECAYS)[1:4] == (1e-3, False, 0)  # a lower rate wins over a lower decay


def test_the_lowest_decay_is_an_edge_where_a_lower_one_could_be_tried():
    some = DECAYS | {"weight_decays": (1e-5, 1e-4), "decay_scale_bias": ()}
    assert choice_of(at(best=0, points=4), **some).weight_decay_edge == "lowest"
    assert choice_of(at(best=1, points=4), **some).weight_decay_edge == "highest"
    one = DECAYS | {"weight_decays": (1e-4,), "decay_scale_bias": ()}
    assert choice_of(at(best=0, points=2), **one).weight_decay_edge is None


@pytest.mark.parametrize(
    ("diverged", "index"), [((), 4), ((4,), 3), ((1, 4), 0), ((1,), 0), ((0,), None), ((0, 1, 2, 3, 4), None)]
)
def test_the_max_stable_rate_is_the_last_before_the_first_that_diverged(diverged, index):
    values = [[(0.5, 1), (0.5, None if i in diverged else 1)] for i in range(5)]  # one of two seeds, at step 0
    found = choice_of(values)
    assert found.max_stable_rate == (None if index is None else CONFIG.sweep.learning_rates[index])
    assert [point["diverged"] for point in found.curve] == [int(i in diverged) for i in range(5)]


def test_a_rate_may_be_stable_and_teach_nothing():
    found = choice_of(rates((0.3, 1), (0.9, 1), (0.46, 1), (0.44, 1), (0.1, 1)))
    assert found.max_stable_rate == CONFIG.sweep.learning_rates[4]
    assert found.max_learning_rate == CONFIG.sweep.learning_rates[2]


def test_the_max_stable_rate_is_that_of_the_chosen_decay():
    sweep = {"learning_rate_points": 3, "weight_decays": (0.0, 1e-4)}
    values = rates((0.9, 1), (0.5, 1), (0.5, None), (0.5, 1), (0.5, None), (0.5, 1))
    config_rates = replace(CONFIG.sweep, **sweep).learning_rates
    assert choice_of(values, **sweep).max_stable_rate == config_rates[0]
    other = [values[1], values[0], *values[2:]]
    assert choice_of(other, **sweep).max_stable_rate == config_rates[2]


def test_an_arm_with_seeds_of_its_own_is_tuned_on_these():
    config = replace(CONFIG, treatments=(vary("again", {"model.placement": "before"}, first_seed=100),))
    records = synthetic.records(config)
    again = Arm("again", "relu")
    assert {r["seed"] for r in records if (r["phase"], r["treatment"]) == ("tune", "again")} == {100, 101}
    wrong = [r | ({"seed": r["seed"] - 100} if r["treatment"] == "again" else {}) for r in records]
    with pytest.raises(ConfigError, match=r"the first is again/relu at learning rate 0.0625 with seed 100"):
        tuning.choose(config, wrong)
    assert len(tuning.choose(config, records)[again].curve[0]["values"]) == 2


def test_a_missing_record_is_named_with_its_decay():
    sweep = replace(CONFIG.sweep, weight_decays=(0.0, 5e-4), decay_scale_bias=(False, True))
    config = replace(CONFIG, sweep=sweep)
    records = [r for r in synthetic.records(config) if not (r["weight_decay"] and r["decay_scale_bias"])]
    with pytest.raises(ConfigError, match=r"0.0625, weight decay 0.0005, scale and bias decaying, with seed 0;"):
        tuning.choose(config, records)
