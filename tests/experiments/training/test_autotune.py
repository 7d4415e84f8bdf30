"""How steps and seeds run is measured, recorded, and kept when a run continues."""

import json
from dataclasses import replace

import jax
import pytest
from helpers import ROOT
from small_arms import BEFORE, OWN_SPLITS, lane, make_data, one_split

from experiments import sweep
from experiments.config import ConfigError, TrainingConfig, load
from experiments.training import autotune
from experiments.training.compiled import Engine
from experiments.training.step import init
from experiments.training.workers import Local


def fixed(steps="auto", lanes="auto"):
    return BEFORE._replace(training=TrainingConfig(batch_size=10, epochs=3, steps=steps, lanes=lanes))


def test_the_fastest_of_all_ways_that_the_config_leaves_open_is_taken(monkeypatch):
    cost = {"loop, sequence": 3.0, "scan, sequence": 2.0, "loop, vmap": 1.0, "scan, vmap": 4.0}
    tried = []

    def measure(setup, data, lanes, way):
        tried.append(way)
        return cost[f"{way.steps}, {way.lanes}"]

    monkeypatch.setattr(autotune, "milliseconds", measure)
    data, lanes = one_split(make_data()), [lane(0.1, 0)]
    found = autotune.choose(fixed(), data, lanes)
    assert (found.engine, found.milliseconds) == (Engine("loop", "vmap"), cost)
    assert autotune.choose(fixed(lanes="sequence"), data, lanes).engine == Engine("scan", "sequence")
    assert autotune.choose(fixed(steps="scan"), data, lanes).engine == Engine("scan", "sequence")
    tried.clear()
    assert autotune.choose(fixed("loop", "sequence"), data, lanes) == (Engine("loop", "sequence"), {})
    assert not tried


def test_a_way_that_does_not_fit_into_memory_is_not_taken(monkeypatch):
    monkeypatch.setattr(autotune, "milliseconds", lambda *a: None if a[-1].lanes == "vmap" else 5.0)
    found = autotune.choose(fixed(), one_split(make_data()), [lane(0.1, 0)])
    assert found.engine.lanes == "sequence" and found.milliseconds["scan, vmap"] is None
    monkeypatch.setattr(autotune, "milliseconds", lambda *a: None)
    with pytest.raises(ConfigError, match=r"fits into memory; choose a smaller training\.batch_size"):
        autotune.choose(fixed(), one_split(make_data()), [lane(0.1, 0)])


def test_a_way_whose_states_have_no_room_is_not_even_tried(monkeypatch):
    tried = []
    monkeypatch.setattr(autotune, "milliseconds", lambda *a: tried.append(a[-1]) or 5.0)
    data, lanes = make_data(), [lane(0.1, seed) for seed in range(2 * jax.device_count())]
    state = init(BEFORE, 3, jax.numpy.int32(0), data.train.x)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    monkeypatch.setattr(autotune, "memory", lambda: jax.device_count() * size)  # one lane on each device
    found = autotune.choose(fixed(), one_split(data), lanes)
    assert {way.lanes for way in tried} == {"sequence"} and found.milliseconds["scan, vmap"] is None
    with pytest.raises(ConfigError, match=r"fits into memory; .* training.lanes='sequence'"):
        autotune.choose(fixed("scan", "vmap"), one_split(data), lanes)


@pytest.mark.parametrize("data", [one_split(make_data()), OWN_SPLITS], ids=["one split", "own splits"])
def test_a_measurement_is_of_real_steps_and_takes_time(data):
    found = autotune.choose(fixed(steps="scan"), data, [lane(0.1, seed) for seed in range(9)])
    assert set(found.milliseconds) == {"scan, sequence", "scan, vmap"}
    assert all(0 < value < 1e4 for value in found.milliseconds.values())


def test_a_run_that_goes_on_keeps_the_engine_that_its_folder_names(tmp_path, monkeypatch):
    """Another engine would change the last digits, but a continued run must end with the same numbers."""
    config = load(ROOT / "configs" / "smoke.py")
    config = replace(config, training=TrainingConfig(epochs=1))
    measured = autotune.Measured(Engine("loop", "sequence"), {"loop, sequence": 1.0, "scan, vmap": 2.0})
    monkeypatch.setattr(autotune, "choose", lambda *a: measured)
    first = sweep._engines(config, None, tmp_path, sweep.SILENT, Local())
    written = json.loads((tmp_path / "engine.json").read_text())
    (kind,) = written
    assert kind == "mlp, 16-12, float32, batch 60"
    assert written[kind]["milliseconds per step"] == measured.milliseconds
    monkeypatch.setattr(autotune, "choose", lambda *a: autotune.Measured(Engine("scan", "vmap"), {}))
    assert sweep._engines(config, None, tmp_path, sweep.SILENT, Local()) == first
    assert first == {kind: Engine("loop", "sequence", jax.device_count())}
