"""The growth benchmark: curves are complete, and the slope is fitted to the upper half."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from benchmarks.commands import main
from benchmarks.growth import command, curves, devices, work

SIZES = {"batch": (1, 2), "channels": (1, 2), "devices": (1, 2, 4), "seeds": (1, 2), "layers": (1, 2)}


def test_all_curves_are_measured_judged_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "QUICK", SIZES)
    monkeypatch.setattr(command, "QUICK_REPEATS", 1)
    monkeypatch.setattr(work, "COMPILES", 1)
    # This process already has eight devices.
    monkeypatch.setattr(devices, "measure_in_process", partial(devices.measure, shape=(8, 2, 2, 3)))
    assert main(["growth", "--quick", "--out", str(tmp_path / "g.json")]) == 0
    found = json.loads((tmp_path / "g.json").read_text())["curves"]
    lines = [("batch", "jbn"), ("batch", "copy"), ("channels", "jbn"), ("channels", "copy"), ("devices", "jbn")]
    lines += [("seeds", "jbn"), *(("layers", how) for how in work.STACKS)]
    assert [(c["panel"], c["line"]) for c in found] == lines + [("compile", how) for how in ("unrolled", "scan")]
    for curve in found:
        sizes = SIZES["layers" if curve["panel"] == "compile" else curve["panel"]]
        assert tuple(point["size"] for point in curve["points"]) == sizes
        assert all(point["milliseconds"] > 0 for point in curve["points"])
    (shared,) = (c for c in found if c["panel"] == "devices")
    counts = [point["collectives"] for point in shared["points"]]
    assert counts[1] == counts[2] == 2  # one in the forward pass and one in the backward pass, on any number of devices
    assert (tmp_path / "g.png").stat().st_size > 1e4 and "proportion" in (tmp_path / "g.svg").read_text()
    assert "devices, jbn" in capsys.readouterr().out


def test_a_slope_is_that_of_the_upper_half_and_superlinear_when_steeper_than_proportional():
    sizes = [1, 2, 4, 8, 16]

    def curve(time):
        return curves.judged({"points": [{"size": n, "milliseconds": time(n)} for n in sizes]})

    assert curve(lambda n: 3 * n**1.2)["slope"] == 1.2 and curve(lambda n: 3 * n**1.2)["superlinear"]
    assert curve(lambda n: 3 * n**1.1)["slope"] == 1.1 and not curve(lambda n: 3 * n**1.1)["superlinear"]
    assert curve(lambda n: max(n, 4.0))["slope"] == 1.0  # flat, because the overhead of a call is all there is


@pytest.mark.parametrize(("one", "other"), [("unrolled", "scan"), ("norms alone", "norms alone, flax")])
def test_stacks_that_are_compared_have_the_same_gradients(one, other):
    for a, b in zip(*(jax.tree.leaves(work.stack_call(3, how)[0]()) for how in (one, other)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(np.abs(a).max()))


def test_a_batch_over_devices_gives_what_one_device_gives():
    x, dy = work.normal((8, 2, 2, 3)), work.normal((8, 2, 2, 3), 1)
    scale, bias = np.full(3, 2.0, np.float32), np.ones(3, np.float32)
    P = jax.sharding.PartitionSpec
    specs, out = (P("batch"), P("batch"), P(), P()), (P("batch"), P(), (P("batch"), P(), P()))
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
    spread = jax.shard_map(partial(work.both_passes, axis_name="batch"), mesh=mesh, in_specs=specs, out_specs=out)
    one, many = (jax.jit(f)(x, dy, scale, bias) for f in (work.both_passes, spread))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
