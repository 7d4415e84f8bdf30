"""experiments.training.observe: the statistics recorded inside a network."""

import jax
import jax.numpy as jnp
import numpy as np
from small_arms import BEFORE, SCAN, lane, make_data, one_split

from experiments.config import (
    ProbesConfig,
)
from experiments.training.loop import train_arm
from experiments.training.observe import observe
from experiments.training.step import init


def test_a_look_measures_the_distance_of_the_running_statistics_from_the_true_ones():
    data = make_data()
    state = init(BEFORE, 3, jnp.int32(0), data.train.x)
    w = state.params["block_0"]["layer"]
    h = np.asarray(data.train.x, np.float64) @ np.asarray(w["kernel"], np.float64) + np.asarray(w["bias"])
    found = observe(BEFORE, 3, state, data.train)
    np.testing.assert_allclose(found.mean_gap[0], (np.abs(h.mean(0)) / np.sqrt(h.var(0) + 1e-5)).mean(), rtol=1e-4)
    np.testing.assert_allclose(found.var_ratio[0], np.median((1 + 1e-5) / (h.var(0) + 1e-5)), rtol=1e-4)
    y = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
    np.testing.assert_allclose(found.inputs[0].reshape(y.shape), y, rtol=1e-3, atol=1e-4)
    a = np.abs(np.tanh(y))
    np.testing.assert_allclose(found.saturation[0], (a.mean(0) / a.max(0)).mean(), rtol=1e-4)
    np.testing.assert_allclose(found.sparsity[0], 1 - found.saturation[0], rtol=1e-5)  # before: tanh ends the block
    assert list(found.gradient_norms) == ["block_0/layer", "block_0/norm", "block_1/layer", "block_1/norm", "head"]

    stats = {
        "block_0": {"norm": {"mean": jnp.asarray(h.mean(0)), "var": jnp.asarray(h.var(0))}},
        "block_1": state.batch_stats["block_1"],
    }
    stats = jax.tree.map(lambda a: a.astype(jnp.float32), stats)
    known = observe(BEFORE, 3, state._replace(batch_stats=stats), data.train)
    np.testing.assert_allclose(known.mean_gap[0], 0, atol=1e-5)
    np.testing.assert_allclose(known.var_ratio[0], 1, rtol=1e-4)
    assert float(known.scale[0]) == 1.0


def test_probes_at_the_end_hold_curvature_and_the_mean_logit_with_both_kinds_of_statistics():
    setup = BEFORE._replace(probes=ProbesConfig(seeds=1, eigenvalues=2, mean_logit=True, predictiveness=True))
    records = train_arm(setup, one_split(make_data()), [lane(0.1, 3), lane(0.1, 4)], SCAN, width=2, probe=True)
    probes = records[0]["probes"]
    assert set(probes["eigenvalues"]) == set(probes["mean_logit"]) == {"batch", "frozen"}
    for values in probes["eigenvalues"].values():
        assert len(values) == 2 and values[0] >= values[1] and values[0] > 0
    assert list(probes["mean_logit"]["frozen"]) == ["block_0/layer", "block_1/layer", "head"]
    along = probes["predictiveness"]
    assert np.shape(along["losses"]) == (4, len(along["step_sizes"])) and len(along["smoothness"]) == 4
