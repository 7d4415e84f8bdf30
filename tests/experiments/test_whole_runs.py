"""Runs as a whole: interrupted, given more seeds, ended at a look; every network is read once, and probed after."""

import dataclasses

import pytest
from small_arms import TINY

from experiments import sweep
from experiments.config import ConfigError
from experiments.store import record

CONFIG = dataclasses.replace(
    TINY,
    placements=("before", "after"),
    training=dataclasses.replace(TINY.training, epochs=2),
    probes=dataclasses.replace(TINY.probes, seeds=2),
    sweep=dataclasses.replace(TINY.sweep, learning_rate_points=4, seeds=4),
)


def changed(**fields):
    return dataclasses.replace(CONFIG, sweep=dataclasses.replace(CONFIG.sweep, **fields))


def by_key(run):
    return {sweep._key(r): {k: v for k, v in r.items() if k != "seconds"} for r in run.records}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return sweep.run(CONFIG, tmp_path_factory.mktemp("whole") / "run")


def test_every_network_is_trained_and_read_on_the_test_set_once(whole):
    trained = [r for r in whole.records if r["phase"] == "train"]
    assert len({sweep._key(r) for r in whole.records}) == len(whole.records)
    assert all(0 <= r["test_accuracy"] <= 1 and r["probes"] is None for r in trained)
    first = [r for r in trained if r["seed"] < 3]
    assert len(first) == 2 * 4 * 3, "two arms at four rates with the three seeds of the first round"
    assert whole.result["look"] == {"seeds": 4, "planned": [4], "alpha": 0.05, "undeclared": []}


def test_the_first_seeds_of_the_most_chosen_setting_are_probed_and_come_out_bit_equal(whole):
    probed = [r for r in whole.records if r["phase"] == "probe"]
    assert [(r["treatment"], r["seed"]) for r in probed] == [("before", 0), ("before", 1), ("after", 0), ("after", 1)]
    rates = {arm["treatment"]: arm["learning_rate"] for arm in whole.result["arms"]}
    trained = by_key(whole)
    for r in probed:
        assert r["learning_rate"] == rates[r["treatment"]] and r["probes"]["steps"]
        first = trained[("train", *sweep._key(r)[1:])]
        assert {k: r[k] for k in first if k not in ("phase", "probes")} == {
            k: v for k, v in first.items() if k not in ("phase", "probes")
        }


@pytest.mark.parametrize("kept", [5, 17, 24, 27])
def test_a_run_that_lost_records_ends_as_one_that_did_not(whole, kept, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    for name in ("config.json", "env.json", "data.json", "arms.json", "engine.json"):
        (again / name).write_bytes((whole.folder / name).read_bytes())
    lines = (whole.folder / "records.jsonl").read_text().splitlines(keepends=True)
    (again / "records.jsonl").write_text("".join(lines[:kept]))
    resumed = sweep.run(CONFIG, again)
    assert resumed.result == whole.result and by_key(resumed) == by_key(whole)


def test_a_finished_run_goes_on_with_more_seeds_and_ends_as_one_that_began_with_them(tmp_path):
    notes = []
    small = sweep.run(changed(seeds=3), tmp_path / "run")
    more = sweep.run(CONFIG, tmp_path / "run", sweep.SILENT._replace(note=notes.append))
    fresh = sweep.run(CONFIG, tmp_path / "fresh")
    before = by_key(small)
    assert {k: v for k, v in by_key(more).items() if k in before} == before, "nothing is trained again"
    assert more.result["look"]["undeclared"] == [3] and any("3" in note and "4" in note for note in notes)
    assert "finished with 3 seeds before it went on to 4" in more.result["warnings"][0]
    for ours, theirs in zip(more.result["contrasts"], fresh.result["contrasts"], strict=True):
        assert ours["difference"] == pytest.approx(theirs["difference"], abs=1e-9)
    with pytest.raises(ConfigError, match="seeds"):
        sweep.run(changed(seeds=3), tmp_path / "run")


def test_a_run_ends_at_the_first_look_that_decides(tmp_path):
    # A margin of 60 points is decided by any three seeds.
    wide = dataclasses.replace(changed(looks=(3, 4)), analysis=dataclasses.replace(CONFIG.analysis, margin_pp=60.0))
    notes = []
    run = sweep.run(wide, tmp_path / "run", sweep.SILENT._replace(note=notes.append))
    look = run.result["look"]
    assert (look["seeds"], look["planned"]) == (3, [3, 4]) and 0 < look["alpha"] < 0.05
    assert {r["seed"] for r in run.records} == {0, 1, 2}
    assert any("decided with 3 seeds" in note for note in notes)
    undecided = dataclasses.replace(wide, analysis=dataclasses.replace(CONFIG.analysis, margin_pp=1e-3))
    last = sweep.run(undecided, tmp_path / "last").result["look"]
    assert last["seeds"] == 4 and last["alpha"] < 0.05


def test_reading_the_run_folder_again_trains_nothing(whole):
    assert sweep.run(CONFIG, whole.folder).records == record.read(whole.folder).records == whole.records
