"""The network benchmark: networks train equally with each batch norm, and what should be fused is fused."""

import json
from functools import partial

import jax
import numpy as np
import pytest

from benchmarks import timing
from benchmarks.commands import main
from benchmarks.training import network
from experiments.networks import ResNet


def timed(*samples):
    return timing.timed(list(samples))


SMALL = partial(ResNet, units=1, stages=(4, 8), shortcut="projection")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(network, "NETWORKS", {"small": (SMALL, 6, 6)})
    monkeypatch.setattr(network, "SIZE", 8)
    monkeypatch.setattr(network, "QUICK_REPEATS", 2)


def test_a_network_trains_alike_with_each_batch_norm(small, tmp_path, monkeypatch, capsys):
    trained = {}

    def interleaved(calls, repeats):
        trained.update({norm: [float(call()) for _ in range(5)] for norm, call in calls.items()})
        return {norm: timed(3e-3, 4e-3, 5e-3) for norm in calls}

    monkeypatch.setattr(network, "interleaved", interleaved)
    assert main(["network", "--quick", "--out", str(tmp_path / "n.json")]) == 0
    assert list(trained) == ["flax", "jbn", "jbn, ReLU within", "none"]
    assert trained["flax"][0] > trained["flax"][-1]
    for norm in ("jbn", "jbn, ReLU within"):
        np.testing.assert_allclose(trained[norm], trained["flax"], rtol=1e-4)
    assert abs(trained["none"][0] - trained["flax"][0]) > 1e-3
    assert "ReLU within" in capsys.readouterr().out
    found = json.loads((tmp_path / "n.json").read_text())
    assert {"device", "platform", "versions", "dtype", "quick", "repeats"} <= found.keys()
    assert [(r["network"], r["batch"], r["norm"]) for r in found["rows"]] == [("small", 6, n) for n in trained]
    for row in found["rows"]:
        assert row["milliseconds"] == 4 and row["quartiles"] == [3, 5] and row["compile_seconds"] > 0
        assert row["temporary_bytes"] is None or row["temporary_bytes"] >= 0
        assert row["peak_bytes"] is None  # a CPU has no counter


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_relu_is_within_the_norm_once_wherever_one_follows_it(dtype, monkeypatch):
    """Otherwise it would be computed twice, without changing any number."""
    within = []

    class Spy:
        def __init__(self, **options):
            self.name = options["name"]

        def __call__(self, x, activation=None):
            within.append(self.name if activation else None)
            return x if activation is None else activation(x)

    def relus(norm):
        model = network.build(SMALL, norm, dtype)
        x = jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32)
        return str(jax.make_jaxpr(lambda x: model.init_with_output(jax.random.key(0), x)[0])(x)).count("name=relu")

    monkeypatch.setattr(network.jbn.linen, "BatchNorm", Spy)
    assert relus("jbn, ReLU within") == relus("none") > 0
    assert within == ["norm_0", "norm_0", None, None]  # stem; unit, whose second norm and shortcut are added first


def test_a_norms_share_is_what_a_network_without_one_does_not_take():
    times = {"flax": timed(5.0), "jbn": timed(4.0), "none": timed(3.0)}
    flax, jbn, none = network.compared(times)
    assert jbn["vs_flax"] == 0.8 and jbn["norm_milliseconds"] == 1000 and jbn["norm_share"] == 0.25
    assert (flax["norm_vs_flax"], jbn["norm_vs_flax"], none["norm_vs_flax"]) == (1, 0.5, 0)
    assert network.compared(times | {"none": timed(6.0)})[1]["norm_vs_flax"] is None


def test_a_peak_is_measured_in_a_process_of_its_own_and_printed(small, capsys):
    network.print_peak("small", "none", "float32")
    assert capsys.readouterr().out == "null\n"
