"""The calibration: a bank of trainings, procedures that read it, and the report on their repeats."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import scipy.stats

from benchmarks.calibration import bank as banks
from benchmarks.calibration import command, procedures, repeats, sample
from benchmarks.calibration.bank import Bank
from benchmarks.calibration.procedures import bagged, chosen_then_read, out_of_bag
from benchmarks.commands import main
from experiments.analysis import bagging
from experiments.analysis.bagging import Scores
from experiments.config import Arm, Config, DataConfig, SweepConfig, TrainingConfig
from experiments.config.reading import load

ARMS = tuple(Arm(treatment, context) for context in ("relu", "tanh") for treatment in ("none", "before", "after"))


def synthetic(seeds=200, rates=1, spread=0.0):
    """A bank of normal scores; test means of the rates differ by `spread`, validation means do not."""
    rng = np.random.default_rng(0)
    shape = (len(ARMS), seeds, rates)
    level = np.arange(len(ARMS))[:, None, None] * 0.1
    test = 95 + level + spread * rng.normal(0, 1, (len(ARMS), 1, rates)) + rng.normal(0, 0.5, shape)
    about = {"config": "synthetic", "split": "each seed", "device": "none", "date": "today", "versions": {"jax": "0"}}
    grid = tuple(2.0**k for k in range(rates))
    return Bank(ARMS, grid, 95 + rng.normal(0, 0.5, shape), np.ones(shape), test, about)


def arms_of(rng, seeds=9, settings=4):
    return {
        name: Scores(tuple(range(seeds)), rng.normal(95, 1, (seeds, settings)), rng.normal(95, 1, (seeds, settings)))
        for name in "ab"
    }


# The bank.


def test_a_bank_that_was_stopped_goes_on_and_is_that_of_one_go(tmp_path, monkeypatch):
    monkeypatch.setattr(banks, "BLOCK", 2)
    config = Config(
        name="tiny",
        placements=("before", "after"),
        activations=("relu",),
        training=TrainingConfig(epochs=1, steps="scan", lanes="vmap", vmap_lanes=4),
        sweep=SweepConfig(lowest_learning_rate=0.02, learning_rate_points=2),
    )
    told = []
    first = banks.train(config, 2, tmp_path / "b.npz", {"device": "here"}, told.append)
    about = {"device": "here", "config": "tiny", "split": "each seed"}
    assert first.seeds == 2 and banks.read(tmp_path / "b.npz").about == about
    whole = banks.train(config, 4, tmp_path / "b.npz", {}, told.append)
    again = banks.train(config, 4, tmp_path / "c.npz", {}, told.append)
    assert told[:4] == [f"{arm}/relu, seeds {s}" for s in ("0 to 1", "2 to 3") for arm in ("before", "after")]
    for name in banks.SCORES:
        found = getattr(whole, name)
        assert (found == getattr(again, name)).all() and (found[:, :2] == getattr(first, name)).all()
        assert found.shape == (2, 4, 2) and len(np.unique(found)) > 8
    assert whole.validation.min() > 30 and (whole.validation <= 100).all()  # percent, and it learns
    monkeypatch.setattr(banks, "train_arm", None)  # what the bank holds is not trained again
    assert banks.train(config, 3, tmp_path / "b.npz", {}, told.append).seeds == 4
    with pytest.raises(ValueError, match=r"holds trainings of tiny, not of other; use another file$"):
        banks.train(replace(config, name="other"), 4, tmp_path / "b.npz", {}, told.append)
    one = replace(config, data=DataConfig(split="one"))
    with pytest.raises(
        ValueError, match=r"of the split 'each seed', not 'one'; use another file, or --split 'each seed'$"
    ):
        banks.train(one, 4, tmp_path / "b.npz", {}, told.append)


def test_a_bank_that_does_not_say_its_split_is_of_one_split(tmp_path):
    """Such as those that were trained when there was no other."""
    bank = synthetic(seeds=5)
    about = {key: value for key, value in bank.about.items() if key != "split"}
    banks.write(bank._replace(about=about), tmp_path / "b.npz")
    assert banks.read(tmp_path / "b.npz").about == about | {"split": "one"}


def test_a_training_that_diverged_has_the_worst_loss():
    record = {"val_loss": [1.0, 0.5], "val_accuracy": [0.2, 0.5], "test_accuracy": 0.25, "diverged": None}
    assert banks._scores(record) == (50, 0.5, 25)
    assert banks._scores(record | {"diverged": 0}) == (50, np.inf, 25)
    assert banks._scores(record | {"val_loss": [1.0, np.nan]}) == (50, np.inf, 25)


# The procedures.


def test_the_first_seeds_choose_and_the_others_are_read():
    arms = arms_of(np.random.default_rng(0))
    found = chosen_then_read(3, 6).estimate(arms, {"a - b": {"a": 1, "b": -1}})["a - b"]
    read = {}
    for name, scores in arms.items():
        choice = np.asarray(scores.validation)[:3].mean(0).argmax()
        read[name] = np.asarray(scores.test)[3:, choice]
    test = scipy.stats.ttest_rel(read["a"], read["b"])
    assert found.estimate == pytest.approx((read["a"] - read["b"]).mean())
    assert found.p == pytest.approx(test.pvalue)
    assert found.ci == pytest.approx(tuple(test.confidence_interval()))
    assert chosen_then_read(3, 6).trainings(arms["a"]) == 3 * 4 + 6


def test_a_raced_procedure_reads_what_the_first_round_leaves():
    rng = np.random.default_rng(1)
    scores = arms_of(rng, settings=5)["a"]
    worse = Scores(scores.seeds, np.asarray(scores.validation) - [0, 0, 0, 50, 60], scores.test)
    three = Scores(scores.seeds, np.asarray(scores.validation)[:, :3], np.asarray(scores.test)[:, :3])
    weights = {"mean": {"a": 1.0}}
    raced, plain = bagged(9, raced=True), bagged(9)
    assert raced.estimate({"a": worse}, weights) == plain.estimate({"a": three}, weights)
    assert (raced.trainings(worse), plain.trainings(worse)) == (3 * 5 + 6 * 3, 9 * 5)
    few, all_of_them = (bagged(9, drawn=m).estimate({"a": scores}, weights)["mean"] for m in (3, 9))
    assert all_of_them == plain.estimate({"a": scores}, weights)["mean"]
    assert few == bagging.contrast(bagging.bag({"a": scores}, bags=procedures.BAGS, drawn=3), {"a": 1.0})
    assert bagged(9, drawn=3).name == "9 seeds, choice bagged by 3"


def test_out_of_bag_each_seed_is_read_where_it_did_not_choose():
    scores = arms_of(np.random.default_rng(2), seeds=4)["a"]
    counts = np.array([np.bincount(drawn, minlength=4) for drawn in product(range(4), repeat=4)])
    test, choices = np.asarray(scores.test), bagging.choose(counts, scores)
    expected = [np.mean([test[k, c] for row, c in zip(counts, choices, strict=True) if not row[k]]) for k in range(4)]
    assert out_of_bag(counts, scores).mean() == pytest.approx(np.mean(expected))
    one = Scores(scores.seeds, np.asarray(scores.validation)[:, :1], test[:, :1])
    assert out_of_bag(counts, one) == pytest.approx(test[:, 0])


def test_out_of_bag_a_seeds_part_is_the_derivative_by_its_weight():
    """Over all bags, by finite differences: bags and seeds weighted by probabilities that lean towards one seed."""
    scores = arms_of(np.random.default_rng(3), seeds=4)["a"]
    drawn = np.array(list(product(range(4), repeat=4)))
    counts = np.array([np.bincount(row, minlength=4) for row in drawn])
    read = np.asarray(scores.test)[:, bagging.choose(counts, scores)]  # [seeds, bags]

    def estimate(weights):
        of_bags = np.where(counts.T == 0, weights[drawn].prod(axis=1), 0)
        return weights @ ((of_bags * read).sum(1) / of_bags.sum(1))

    even, step = np.full(4, 0.25), 1e-5
    found = out_of_bag(counts, scores)
    for j in range(4):
        lean = step * (np.eye(4)[j] - even)
        derivative = (estimate(even + lean) - estimate(even - lean)) / (2 * step)
        assert found[j] - found.mean() == pytest.approx(derivative, rel=1e-6)


# The repeats.


def test_without_a_choice_every_procedure_holds_its_level():
    bank = synthetic()
    contrasts = repeats.contrasts_of(bank)
    for procedure in (chosen_then_read(3, 9), bagged(9), procedures.bagged_out_of_bag(9)):
        found = repeats.repeat(bank, procedure, contrasts, 200)["contrasts"]
        assert {abs(c["mean"] - c["bank"]) < 0.05 for c in found.values()} == {True}
        assert np.mean([c["ratio"] for c in found.values()]) == pytest.approx(1, abs=0.1)
        assert np.mean([c["covers_own_mean"] for c in found.values()]) == pytest.approx(95, abs=2)
        assert np.mean([c["covers_bank"] for c in found.values()]) == pytest.approx(95, abs=2)
        low, high = repeats.same_arm_twice(bank, procedure, 100)["arms_with_norm"]["ci"]
        assert low < 5 < high


def test_rates_that_trade_places_break_intervals_of_fresh_seeds_alone():
    bank = synthetic(rates=4, spread=0.5)
    contrasts = repeats.contrasts_of(bank)
    fresh, ours = (repeats.repeat(bank, p, contrasts, 80)["contrasts"] for p in (chosen_then_read(3, 9), bagged(9)))
    assert np.mean([c["covers_own_mean"] for c in fresh.values()]) < 85
    assert np.mean([c["covers_own_mean"] for c in ours.values()]) > 93
    false = [
        repeats.same_arm_twice(bank, p, 100)["arms_with_norm"]["percent"] for p in (chosen_then_read(3, 9), bagged(9))
    ]
    assert false[0] > 15 and false[1] < 8


def test_contrasts_are_every_pair_in_each_context_and_how_the_first_differs():
    bank = synthetic()
    contrasts = repeats.contrasts_of(bank)
    assert list(contrasts) == [
        *(f"{pair}, {c}" for pair in ("after - before", "before - none", "after - none") for c in ("relu", "tanh")),
        "(after - before), relu - tanh",
    ]
    values = repeats.bank_values(bank, contrasts)
    assert values["after - before, relu"] == pytest.approx(bank.test[2].mean() - bank.test[1].mean())
    simple = values["after - before, relu"] - values["after - before, tanh"]
    assert values["(after - before), relu - tanh"] == pytest.approx(simple)


def test_a_wrong_sign_is_an_interval_on_the_other_side_of_the_truth():
    outcomes = np.array([[1.0, -1, 0.2, 3], [0.1] * 4, [0.5, -1.5, -0.1, 2.9], [1.5, -0.5, 0.5, 3.1]])
    found = repeats.judged(outcomes, 1.2)
    assert (found["covers_bank"], found["excludes_0"], found["wrong_sign"]) == (25, 75, 25)
    assert repeats.judged(outcomes, -1.2)["wrong_sign"] == 50
    assert found["ratio"] == pytest.approx(np.std([1, -1, 0.2, 3], ddof=1) / 0.1)
    assert repeats.rate(0, 10)["ci"] == pytest.approx([0, 30.85], abs=0.01)


# The command.


def test_the_command_reads_a_bank_and_writes_json_and_tables(tmp_path, monkeypatch, capsys):
    bank = synthetic(rates=2)
    config = load(str(command.CONFIG))
    bank = bank._replace(arms=config.arms[:6], rates=config.sweep.learning_rates)
    scores = {name: np.repeat(getattr(bank, name), [4, 3], axis=2) for name in banks.SCORES}
    bank = bank._replace(**scores, about=bank.about | {"config": config.name})
    monkeypatch.setattr(command, "load", lambda path: replace(config, activations=("relu", "tanh")))
    monkeypatch.setattr(command, "PROCEDURES", (chosen_then_read(3, 5), bagged(6, raced=True)))
    monkeypatch.setattr(command, "use_all_cores", lambda: None)
    banks.write(bank, tmp_path / "bank.npz")
    out = tmp_path / "c.json"
    arguments = ["calibration", "--bank", str(tmp_path / "bank.npz"), "--seeds", "200", "--repeats", "8"]
    assert main([*arguments, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert [row["procedure"] for row in result["procedures"]] == [
        "3 seeds choose, 5 others are read",
        "6 seeds, raced, choice bagged",
    ]
    assert (result["bank"]["seeds"], result["repeats"], result["bank"]["device"]) == (200, 8, "none")
    assert result["procedures"][0]["trainings"] == 3 * 7 + 5
    assert 3 * 7 + 3 * 3 <= result["procedures"][1]["trainings"] <= 6 * 7
    markdown = out.with_suffix(".md").read_text()
    assert markdown.count("\n| ") == (2 + 2) + 2 * (2 + 7) + (2 + 6)
    for row in result["procedures"]:
        assert len(row["contrasts"]) == 7
        same = row["same_arm_twice"]["arms_with_norm"]
        assert same["trials"] == 4 * 2 and "{:.1f} [{:.1f}, {:.1f}]".format(same["percent"], *same["ci"]) in markdown
    assert "3 seeds choose" in capsys.readouterr().out


def test_the_sample_is_the_first_repeats_of_the_same_procedures(tmp_path, monkeypatch, capsys):
    """Of the arms before and after alone, whatever else the bank holds."""
    bank = synthetic()
    banks.write(bank, tmp_path / "bank.npz")
    monkeypatch.setattr(sample, "use_all_cores", lambda: None)
    monkeypatch.setattr(sample, "PROCEDURES", (chosen_then_read(3, 5), bagged(6, raced=True)))
    monkeypatch.setattr(sample, "KEPT", 5)
    out = tmp_path / "s.json"
    arguments = ["calibration-sample", "--bank", str(tmp_path / "bank.npz"), "--repeats", "8", "--out", str(out)]
    assert main(arguments) == 0
    result = json.loads(out.read_text())
    values = repeats.bank_values(bank, contrasts := repeats.contrasts_of(bank))
    assert result["bank"]["values"] == {(name := "after - before, relu"): values[name]}
    for row, procedure in zip(result["procedures"], sample.PROCEDURES, strict=True):
        found, trainings = repeats.outcomes(bank, procedure, contrasts, 8)
        assert (row["procedure"], row["trainings"]) == (procedure.name, trainings)
        assert set(row["contrasts"]) == {"after - before, relu"}
        for name, of in row["contrasts"].items():
            whole = found[list(contrasts).index(name)]
            assert np.array(of["first"]) == pytest.approx(whole[[0, 2, 3], :5].T, abs=1e-4)
            held = [low <= values[name] <= high for low, high in whole[2:].T]
            assert of["missed"] == [k for k in range(8) if not held[k]] and of["covers_bank"] == 100 * np.mean(held)
    assert "of 8 intervals miss the bank's value" in capsys.readouterr().out
