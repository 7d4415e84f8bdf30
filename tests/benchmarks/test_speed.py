"""The speed benchmark: contestants do the same work in turns; limits and ratios are correct."""

import json

import jax
import numpy as np
import pytest

from benchmarks import timing
from benchmarks.commands import main
from benchmarks.speed import cases, command, contestants, costs, limits, measure, report
from benchmarks.speed.cases import MODES, Case


def timed(*samples):
    return timing.timed(list(samples))


@pytest.mark.parametrize(
    ("option", "mode"),
    [("plain", m) for m in MODES] + [(o, "forward+backward") for o in ("masked", "ghost")],
)
def test_all_contestants_compute_the_same(option, mode):
    case = Case("", (64, 3, 5, 7), option=option)
    found = {name: jax.block_until_ready(call()) for name, call in contestants.calls(case, mode).items()}
    assert {"jbn", "flax linen"} <= found.keys()

    def numbers(name):  # y, and gradients of x, scale and bias
        out = found[name] if mode == "inference" else found[name][: 2 if "backward" in mode else 1]
        return [np.asarray(a).reshape(64, -1) if a.size > 7 else np.asarray(a) for a in jax.tree.leaves(out)]

    ours = numbers("jbn")
    for name in found.keys() - {"jbn", "multiply-add"}:
        if name.startswith("torch"):
            continue  # torch's call returns nothing; the correctness table compares its numbers
        for a, b in zip(ours, numbers(name), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max(), err_msg=f"{name}, {mode}, {option}")


def test_contestants_take_turns_in_changing_order_and_a_turn_begins_with_a_rest_and_untimed(monkeypatch):
    clock, log = [0.0], []
    price = {"a": 0.5, "b": 0.00051}
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: log.append(" "))

    def contestant(name):
        def call():
            first = log[-1:] == [" "]
            log.append(name)
            clock[0] += price[name] * (5 if first else 1)
            return np.zeros(1)

        return call

    found = timing.interleaved({"a": contestant("a"), "b": contestant("b")}, repeats=8)
    assert {name: t.median for name, t in found.items()} == pytest.approx(price)
    turns = "".join(log[4:]).split()
    assert set(turns) == {"aaa", "bbbbbb"}  # untimed: 1 call or 2 ms; timed: equally many calls, at least 2
    rounds = [tuple(turns[i : i + 2]) for i in range(0, 16, 2)]
    assert set(map(frozenset, rounds)) == {frozenset(turns)} and len(set(rounds)) == 2
    assert [len(t.samples) for t in found.values()] == [8, 8]


def test_a_limit_is_its_passes_at_their_fastest_with_one_call_paid():
    times = {
        "read": timed(3.0, 2.0, 9.0),
        "copy": timed(5.0, 4.0, 4.5),
        "triad": timed(7.0, 7.5),
        "nothing": timed(1.0),
    }
    assert limits.limit_seconds("inference", times) == 4.0
    assert limits.limit_seconds("forward", times) == 2.0 + 4.0 - 1.0
    assert limits.limit_seconds("forward+backward", times) == 3 * 2.0 + 4.0 + 7.0 - 4.0
    assert limits.gigabytes_per_second(10**9, times) == {"read": 0.5, "copy": 0.5, "triad": pytest.approx(3 / 7)}


def test_ratios_are_to_the_fastest_and_means_are_geometric():
    times = {"jbn": 2.0, "flax linen": 4.0, "haiku": 1.0, "torch contiguous": 8.0, "torch channels_last": 5.0}
    found = measure.ratios(times, 2.0, 0.5)
    assert found == {"vs_linen": 0.5, "vs_best_jax": 2.0, "vs_torch": 0.4, "vs_limit": 4.0, "vs_multiply_add": None}
    assert measure.geometric_mean([2.0, 8.0, None]) == pytest.approx(4.0)
    assert measure.geometric_mean([None]) is None


def test_channels_go_from_3_to_2048_in_both_precisions():
    full = cases.cases(quick=False, gpu=False)
    assert {3, 2048} <= {case.features for case in full if case.option == "plain"}
    assert {case.option for case in full} == {"plain", "masked", "ghost"}
    plain = [case for case in full if case.option == "plain"]
    assert len({(case.shape, case.dtype) for case in plain}) == 2 * len({case.shape for case in plain})
    assert {c.shape for c in cases.cases(quick=True, gpu=False)} < {case.shape for case in full}


def test_the_program_writes_every_row_the_table_and_the_figure(tmp_path, monkeypatch, capsys):
    small = [Case("MLP", (32, 8)), Case("images", (32, 4, 4, 3), "bfloat16"), Case("MLP", (64, 8), option="ghost")]
    monkeypatch.setattr(cases, "cases", lambda **_: small)
    monkeypatch.setattr(command, "QUICK_REPEATS", 2)
    monkeypatch.setattr(costs, "synchronized_in_process", costs.synchronized)  # this process has enough devices
    monkeypatch.setattr(costs, "SHAPE", (8, 4, 4, 3))
    assert main(["--quick", "--out", str(tmp_path / "r.json")]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert len(result["rows"]) == 4 + 4 + 1
    for row in result["rows"]:
        assert row["limit_milliseconds"] > 0 and row["milliseconds"].keys() >= {"jbn", "flax linen"}
        assert row["vs_linen"] == pytest.approx(
            row["milliseconds"]["jbn"] / row["milliseconds"]["flax linen"], rel=1e-2
        )
    for short in ("fwd", "fwd_bwd", "infer"):
        assert result["summary"][short].keys() >= {"vs_linen", "vs_best_jax", "vs_torch", "vs_limit"}
    assert {row["library"]: row["collectives"] for row in result["synchronized"]}["jbn"] == 2
    jbn = next(row for row in result["costs"] if row["library"] == "jbn")
    assert jbn["kept_over_input"] == pytest.approx(1, abs=0.1)
    assert (tmp_path / "r.md").read_text().count("\n| MLP") == 5
    assert (tmp_path / "r.svg").stat().st_size > 1000 and (tmp_path / "r.png").stat().st_size > 1000
    assert "geometric mean" in capsys.readouterr().out
    assert report.markdown(result) == (tmp_path / "r.md").read_text()
