"""The calibration in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

HEADLINE = "after - before"
COLUMNS = (("sd", "{:.2f}"), ("se", "{:.2f}"), ("ratio", "{:.2f}"), ("covers_own_mean", "{:.0f}"))


def as_markdown(result: dict[str, Any]) -> str:
    bank, rows = result["bank"], result["procedures"]
    contexts = [name.split(", ")[1] for name in bank["values"] if name.startswith(HEADLINE)]
    split = "each with its own split of the examples" if bank["split"] == "each seed" else "all with one split"
    versions = ", ".join(f"{k} {v}" for k, v in (bank["versions"] | result["versions"]).items())
    # The wide tables show the first procedure and the raced ones; the JSON has all.
    raced = [row for row in rows if "raced" in row["procedure"] and "out of bag" not in row["procedure"]]
    shown = [rows[0], *(row for row in raced if row is not rows[0])]
    parts = [
        "<!-- written by python -m benchmarks calibration -->",
        f"A bank of {bank['seeds']} seeds ({split}) x {len(bank['rates'])} rates x every arm of {bank['config']} "
        f"({bank['device']}, {bank['date']}; {versions}). Each procedure is repeated {result['repeats']} times with "
        f"seeds drawn from the bank with replacement; {result['bags']} bags each, which draw as many seeds as there "
        "are unless it says by how many the choice is made. Differences in percentage points.",
        f"**{HEADLINE}**, for {', '.join(contexts)}: standard deviation over repeats, reported standard error, their "
        "ratio (1 is right, more is too sure), how often the 95% interval covers the procedure's own mean. A/A: how "
        "often p < 0.05 when an arm with a norm is compared with itself, seeds drawn anew.",
        _headline(rows, contexts),
        "**Every contrast**: ratio / how often the interval covers the procedure's own mean / the bank's value (all "
        "seeds at the rates that all seeds choose), in percent.",
        _by_contrast(bank, shown, lambda c: f"{c['ratio']:.2f} / {c['covers_own_mean']:.0f} / {c['covers_bank']:.0f}"),
        "**Conclusions**: how often the interval excludes 0 / excludes it on the wrong side of the bank's value, in "
        "percent.",
        _by_contrast(bank, shown, lambda c: f"{c['excludes_0']:.0f} / {c['wrong_sign']:.1f}"),
        "**A/A by arm**: how often p < 0.05 for an arm against itself, in percent, with Clopper & Pearson's interval.",
        _table(
            ("arm", *(row["procedure"] for row in shown)),
            [
                (arm, *(_rate(row["same_arm_twice"]["by_arm"][arm]) for row in shown))
                for arm in rows[0]["same_arm_twice"]["by_arm"]
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _headline(rows: list[dict[str, Any]], contexts: list[str]) -> str:
    lines = []
    for row in rows:
        found = [row["contrasts"][f"{HEADLINE}, {context}"] for context in contexts]
        cells = [" ".join(digits.format(c[key]) for c in found) for key, digits in COLUMNS]
        same = _rate(row["same_arm_twice"]["arms_with_norm"])
        lines.append((row["procedure"], f"{row['trainings']:.0f}", *cells, same))
    return _table(("procedure", "trainings an arm", "sd", "standard error", "ratio", "covers, %", "A/A, %"), lines)


def _by_contrast(bank: dict[str, Any], rows: list[dict[str, Any]], cell: Callable[[dict[str, float]], str]) -> str:
    return _table(
        ("contrast", "bank", *(row["procedure"] for row in rows)),
        [
            (name, f"{value:+.2f}", *(cell(row["contrasts"][name]) for row in rows))
            for name, value in bank["values"].items()
        ],
    )


def _rate(found: dict[str, Any]) -> str:
    low, high = found["ci"]
    return f"{found['percent']:.1f} [{low:.1f}, {high:.1f}]"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, (":--", *("--:" for _ in head[1:])), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
