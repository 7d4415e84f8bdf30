"""The correctness benchmark: jbn is as right as the table says, and the rows can tell right from wrong."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from helpers import ROOT

from benchmarks.adapters import PEERS
from benchmarks.commands import main
from benchmarks.correctness import oracle, table
from benchmarks.correctness.defects import ROWS, largest
from benchmarks.peers import Layer, Peer

PEER = {peer.name: peer for peer in PEERS}

# Rows in which Flax linen is known to fail.
LINEN_FAILS = [
    "variance_1e4",
    "variance_1e6",
    "output_1e4",
    "gradient_1e4",
    "sync_1e4",
    "mask_sync_mean",
    "mask_sync_empty_shard",
    "mask_nan_gradient",
    "mask_all",
    "groups_vmap",
    "groups_shard_map",
    "start_up_10",
    "start_up_100",
    "double_scan",
    "nan_batch",
    "empty_batch",
    "constant_gradient",
    "one_value",
    "wrong_channels",
    "wrong_axis",
]


def cell(row: str, peer: str) -> table.Cell:
    return table.measure_all([ROWS[row]], [PEER[peer]])[row][peer]


@pytest.mark.parametrize("row", ROWS)
def test_jbn_is_within_the_limit(row):
    measured = cell(row, "jbn")
    assert measured.value is not None, measured.note
    assert measured.value <= ROWS[row].limit


@pytest.mark.parametrize("row", LINEN_FAILS)
def test_the_row_catches_flax_linen(row):
    assert cell(row, "flax linen").status in ("wrong", "raises")


@pytest.mark.parametrize(
    "row", ["inference_1e4", "running_definition", "half_stall", "half_inference", "third_derivative"]
)
def test_the_row_lets_flax_linen_pass_where_it_is_right(row):
    assert cell(row, "flax linen").status == "right"


def test_the_row_catches_running_statistics_that_flax_nnx_rounds_to_half_precision():
    assert cell("half_inference", "flax nnx").status == "wrong"


def test_flax_linen_keeps_more_for_the_backward_pass():
    for row in ("residuals_float32", "residuals_bfloat16"):
        jbn, linen = cell(row, "jbn").value, cell(row, "flax linen").value
        assert jbn is not None and linen is not None and linen - jbn > 0.9


def test_a_library_that_is_not_installed_leaves_its_cells_empty():
    class Absent(Peer):
        name, package, module = "absent", "absent", "no_such_library.batch_norm"

    measured = table.measure(ROWS["output_1e4"], Absent())
    assert (measured.text, measured.note) == ("", "not installed")


def test_a_crash_and_a_missing_option_are_told_apart():
    # Flax offers groups and raises; torch's adapter refuses before it imports torch.
    assert cell("groups_vmap", "flax linen").text == "✗ raises NotImplementedError"
    missing = dataclasses.replace(ROWS["groups_vmap"], measure=lambda peer: PEER["torch"].sharded_step(Layer(), None))  # type: ignore[arg-type]
    assert table.measure(missing, PEER["jbn"]).status == "no such option"


def test_nan_is_wrong_and_never_lost():
    assert np.isnan(largest(0.0, np.nan)) and np.isnan(largest(np.nan, 0.0))
    row = dataclasses.replace(ROWS["output_1e4"], measure=lambda peer: float("nan"))
    assert table.measure(row, PEER["jbn"]).text == "✗ NaN"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (2, "2"), (2.25, "2.2"), (318.2, "318"), (63563.1, "6.4e4"), (3.8e-7, "3.8e-7"), (1e-3, "1e-3")],
)
def test_numbers_have_two_digits(value, text):
    assert table.number(value) == text


def test_the_command_prints_and_writes_json_and_markdown(tmp_path, capsys):
    out = tmp_path / "new" / "table.json"
    rows, peers = ["output_1e4", "mask_all", "wrong_axis"], ["jbn", "flax linen"]
    assert main(["correctness", "--out", str(out), "--rows", *rows, "--peers", *peers]) == 0
    printed = capsys.readouterr().out
    assert "Large mean" in printed and "✗ NaN" in printed

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    saved = json.loads(out.read_text(), parse_constant=refuse)
    assert {"jbn", "jax", "flax"} <= saved["versions"].keys() and saved["device"]
    assert [row["name"] for row in saved["rows"]] == rows
    assert saved["rows"][1]["cells"]["flax linen"] == {"status": "wrong", "value": "nan"}
    assert "tuple index out of range" in saved["rows"][2]["cells"]["flax linen"]["note"]

    markdown = out.with_suffix(".md").read_text()
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1, "every line has as many columns"
    assert main(["correctness", "--out", str(out), "--rows", *rows, "--peers", *peers, "--markdown"]) == 0
    assert capsys.readouterr().out == markdown


def test_the_command_fails_where_jbn_breaks_its_claim(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ROWS, "mask_all", dataclasses.replace(ROWS["mask_all"], limit=-1.0))
    assert main(["correctness", "--out", str(tmp_path / "t.json"), "--rows", "mask_all", "--peers", "jbn"]) == 1
    assert "mask_all" in capsys.readouterr().err


def test_the_oracles_derivatives_are_those_of_its_output():
    x, direction, dy = np.random.default_rng(0).normal(size=(3, 8, 2))

    def loss(t):
        moved = x + t * direction
        return float((dy * oracle.normalize(moved, *oracle.moments(moved), epsilon=1e-5)).sum())

    h = 1e-3
    first = (loss(h) - loss(-h)) / (2 * h)
    third = (loss(2 * h) - 2 * loss(h) + 2 * loss(-h) - loss(-2 * h)) / (2 * h**3)
    assert first == pytest.approx((oracle.gradient(x, dy, epsilon=1e-5) * direction).sum(), rel=1e-4)
    assert third == pytest.approx(oracle.third_derivative(x, direction, dy, epsilon=1e-5), rel=1e-4)


def test_the_readme_shows_rows_of_the_saved_table():
    saved = (ROOT / "benchmarks/results/correctness.md").read_text().splitlines()
    shown = (ROOT / "README.md").read_text().partition("## What goes wrong elsewhere")[2].partition("\n\n")[2]
    rows = shown.partition("\n\n")[0].splitlines()
    assert len(rows) == 2 + 5 and set(rows) <= set(saved)
    count = sum(line.startswith("| ") and not line.startswith("| **") for line in saved) - 1
    assert f"Five of [{count} rows]" in shown
