"""The folding benchmark measures what it claims to measure, on small networks."""

import json
from functools import partial

import pytest
from flax import linen as nn

from benchmarks import folding
from benchmarks.commands import main


@pytest.fixture
def small(monkeypatch):
    networks = {"dense": ((8, 5), partial(nn.Dense, 5)), "conv": ((2, 6, 6, 4), partial(nn.Conv, 4, (3, 3)))}
    monkeypatch.setattr(folding, "NETWORKS", networks)


def test_each_network_is_measured_with_and_without_folding_and_saved(small, tmp_path, capsys):
    assert main(["folding", "--out", str(tmp_path / "f.json"), "--repeats", "3"]) == 0
    networks = json.loads((tmp_path / "f.json").read_text())["networks"]
    for rows in networks.values():
        assert [(r["placement"], r["folded"]) for r in rows] == [
            ("none", False), ("before", False), ("before", True), ("after", False), ("after", True)
        ]  # fmt: skip
        assert all(r["error"] < 1e-5 for r in rows)
    sizes = {name: [r["parameter_bytes"] for r in rows if r["folded"]] for name, rows in networks.items()}
    none = {name: rows[0]["parameter_bytes"] for name, rows in networks.items()}
    assert sizes["dense"] == [none["dense"]] * 2
    assert sizes["conv"] == [none["conv"], none["conv"] + 2 * 6 * 6 * 4 * 4]  # a norm follows two layers of three
    markdown = (tmp_path / "f.md").read_text().splitlines()
    assert len(markdown) == 6 and all(line.count("|") == 7 for line in markdown)
    assert "dense" in capsys.readouterr().out
