"""Blocks of Markdown about benchmarks, read from their committed results."""

from __future__ import annotations

import json
from typing import Any

from experiments.quoting.runs import ROOT, Runs
from experiments.quoting.tables import Link, markdown

ADAPTATION = "benchmarks/results/adaptation"
_KINDS = ("clean", "corrupted")


def adaptation(runs: Runs, link: Link) -> str:
    """What test batches, blends and bounds gain over the running statistics."""
    result = _read()
    names = ("test batch", "blend", "test batch, drift ≤ 1", "test batch, drift ≤ 0.25")
    orders, base = ("mixed", "one class"), "any | {} | running statistics | any"
    rows = [
        [
            f"{name}, n = {n}",
            *(_gain(result, f"{order} | {{}} | {name} | {n}", base, kind) for order in orders for kind in _KINDS),
        ]
        for name in names
        for n in (8, 256)
    ]
    header = ["statistics", *(f"{order}, {kind}" for order in ("all classes", "one class") for kind in _KINDS)]
    said = (
        "Accuracy minus that with the running statistics, in percentage points [95% interval]: test batches of n "
        "images of all classes, or of a single one; corrupted is the mean of Gaussian noise, blur and contrast at two "
        f"strengths each. {_provenance(result, link)}"
    )
    return f"{markdown(header, rows)}\n\n{said}"


def averages(runs: Runs, link: Link) -> str:
    """What averaged weights gain over the raw ones, with each kind of statistics."""
    result = _read()
    rows = [
        [
            weights,
            statistics,
            *(_gain(result, f"{weights} | {statistics} | {{}}", "raw | of the raw weights | {}", k) for k in _KINDS),
        ]
        for weights in ("EMA", "SWA")
        for statistics in ("of the raw weights", "averaged", "estimated")
    ]
    said = (
        "Accuracy minus that of the raw weights at the end of the same training, in percentage points [95% interval]. "
        f"Statistics are those of the raw weights, their average, or `estimate_linen`'s. {_provenance(result, link)}"
    )
    return f"{markdown(['weights', 'statistics', *_KINDS], rows)}\n\n{said}"


def _read() -> dict[str, Any]:
    return json.loads((ROOT / f"{ADAPTATION}.json").read_text(encoding="utf-8"))


def _gain(result: dict[str, Any], of: str, minus: str, shift: str) -> str:
    keys = {"of": of, "minus": minus, "shift": shift}
    found = next(row["difference"] for row in result["summary"] if keys.items() <= row.items())
    return "{:+.1f} [{:.1f}, {:.1f}]".format(*found)


def _provenance(result: dict[str, Any], link: Link) -> str:
    return (
        f"{len(result['seeds'])} small CNNs, each trained on {result['size']['train']:,} images of Fashion-MNIST "
        f"({result['device']}, {result['date']}; [all numbers]({link(f'{ADAPTATION}.md')}), "
        "`python -m benchmarks adaptation`)."
    )
